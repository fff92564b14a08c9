//! Puts the policy file in force whenever it changes: `run --follow`. What is watched is every directory on the way to the file,
//! not the file: editors replace it, and a Kubernetes ConfigMap swaps a link two steps before it. After whatever happened on that
//! way it is walked and watched anew, and only then the file is compared with what was seen of it last, so that no change
//! falls between two watches.

use std::{
    collections::{BTreeSet, VecDeque},
    ffi::OsString,
    fs,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::spawn_blocking,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{Service, prepare};
use crate::files;

/// The file is read when nothing has happened to it for so long: an editor takes several steps.
const CALM: Duration = Duration::from_millis(100);
/// It is read after so long all the same.
const RESTLESS: Duration = Duration::from_secs(2);
/// So long it may be missing before that is a reload that failed. The policy before it stays in force either way.
const MISSING: Duration = Duration::from_secs(2);
/// How often to look where nobody tells of changes, or while another change awaits confirmation.
const LOOK: Duration = Duration::from_secs(1);
/// Links that are followed, as the kernel does.
const LINKS: usize = 40;

/// Follows a file until it is dropped.
pub async fn follow(service: Arc<Service>, file: PathBuf) {
    let mut follower = Follower { service, file, seen: None, missing: None };
    let mut told = false;
    loop {
        let path = follower.file.clone();
        let Ok(opened) = spawn_blocking(move || Watch::open(&path)).await else { return };
        let opened = opened.inspect_err(|error| {
            if !told {
                tracing::warn!(policy = %follower.file.display(), reason = %error, "changes are not told of, so it is looked at");
            }
            told = true;
        });
        let Ok((back, look)) = spawn_blocking(move || follower.look()).await else { return };
        follower = back;
        match opened {
            Ok(watch) => watch.changed(look).await,
            Err(_) => sleep(look.map_or(LOOK, |look| look.min(LOOK))).await,
        }
    }
}

struct Follower {
    service: Arc<Service>,
    file: PathBuf,
    /// Digest of the text that was dealt with last, whatever came of it; empty: there was none to be read.
    seen: Option<String>,
    /// Since when it cannot be read.
    missing: Option<Instant>,
}

impl Follower {
    /// Puts the file in force where it changed. Second: when to look again, whatever happens.
    fn look(mut self) -> (Self, Option<Duration>) {
        let again = self.compare();
        (self, again)
    }

    fn compare(&mut self) -> Option<Duration> {
        let text = if let Ok(bytes) = files::read(&self.file) {
            self.missing = None;
            prepare::digest(&bytes)
        } else {
            let since = *self.missing.get_or_insert_with(Instant::now);
            let left = MISSING.saturating_sub(since.elapsed());
            if !left.is_zero() {
                return Some(left);
            }
            String::new()
        };
        let (dealt_with, pending) = {
            let state = self.service.state();
            (state.dealt_with(&text), state.pending().is_some())
        };
        if dealt_with || self.seen.as_ref() == Some(&text) {
            self.seen = Some(text);
            return None;
        }
        if pending {
            return Some(LOOK);
        }
        // How it went is told by the service, and stands in the status.
        drop(self.service.reload(false, None));
        self.seen = Some(text);
        None
    }
}

/// Tells when something happens on the way to a file.
struct Watch {
    events: UnboundedReceiver<()>,
    _watcher: RecommendedWatcher,
}

impl Watch {
    fn open(file: &Path) -> notify::Result<Self> {
        loop {
            let way = Way::to(file);
            let (told, events) = unbounded_channel();
            let entries = way.entries.clone();
            let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
                // A watch that is broken is looked into as well.
                if event.map_or(true, |event| matters(&event, &entries)) {
                    let _ = told.send(());
                }
            })?;
            for directory in &way.directories {
                match watcher.watch(directory, RecursiveMode::NonRecursive) {
                    Ok(()) => {}
                    // What may be passed and not read tells of nothing; what is gone is on the way no more.
                    Err(error) if is_absent_or_closed(&error) => {
                        tracing::debug!(directory = %directory.display(), reason = %error, "not watched");
                    }
                    Err(error) => return Err(error),
                }
            }
            // The way as it was watched; where it changed meanwhile nothing may have told of it.
            if Way::to(file) == way {
                return Ok(Self { events, _watcher: watcher });
            }
        }
    }

    /// Returns when something has happened and it is calm again, or at the latest after `look`.
    async fn changed(mut self, look: Option<Duration>) {
        let first = match look {
            Some(look) => timeout(look, self.events.recv()).await,
            None => Ok(self.events.recv().await),
        };
        match first {
            Err(_) => return,
            // Nobody is left to tell.
            Ok(None) => return sleep(LOOK).await,
            Ok(Some(())) => {}
        }
        let latest = Instant::now() + RESTLESS;
        while let Ok(Some(())) = timeout_at(latest.min(Instant::now() + CALM), self.events.recv()).await {}
    }
}

fn is_absent_or_closed(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(error) => {
            matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES))
        }
        _ => false,
    }
}

/// Whether an event can have changed what the file says. Reading it is an event too.
fn matters(event: &Event, entries: &BTreeSet<PathBuf>) -> bool {
    let reading = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
    event.need_rescan() || !reading && event.paths.iter().any(|path| entries.contains(path))
}

/// The way the kernel takes to a file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Way {
    /// Directories it passes.
    directories: BTreeSet<PathBuf>,
    /// What it looks up in them: directories, links, and the file. They need not be there.
    entries: BTreeSet<PathBuf>,
}

impl Way {
    fn to(file: &Path) -> Self {
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let mut way = Self::default();
        let mut steps: VecDeque<OsString> = names(&absolute);
        let (mut here, mut links) = (PathBuf::from("/"), 0);
        way.directories.insert(here.clone());
        while let Some(step) = steps.pop_front() {
            if step == ".." {
                here.pop();
                continue;
            }
            let entry = here.join(step);
            way.entries.insert(entry.clone());
            match fs::symlink_metadata(&entry) {
                Ok(there) if there.is_symlink() && links < LINKS => {
                    links += 1;
                    let Ok(target) = fs::read_link(&entry) else { break };
                    if target.is_absolute() {
                        here = PathBuf::from("/");
                    }
                    for step in names(&target).into_iter().rev() {
                        steps.push_front(step);
                    }
                }
                Ok(there) if there.is_dir() => {
                    way.directories.insert(entry.clone());
                    here = entry;
                }
                // The file, or where the way ends now.
                _ => break,
            }
        }
        way
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    let step = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(step).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_way_leads_over_every_link() {
        let directory = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        fs::create_dir(root.join("..2026")).unwrap();
        fs::write(root.join("..2026/policy.toml"), "text").unwrap();
        symlink("..2026", root.join("..data")).unwrap();
        fs::create_dir(root.join("mounted")).unwrap();
        symlink("../..data/policy.toml", root.join("mounted/policy.toml")).unwrap();
        let way = Way::to(&root.join("mounted/policy.toml"));
        for directory in ["mounted", "..2026"] {
            assert!(way.directories.contains(&root.join(directory)), "{directory}: {way:?}");
        }
        for entry in ["mounted", "mounted/policy.toml", "..data", "..2026", "..2026/policy.toml"] {
            assert!(way.entries.contains(&root.join(entry)), "{entry}: {way:?}");
        }
        assert!(way.directories.contains(Path::new("/")) && way.directories.contains(&root));
        // What is missing, and a link to itself, end it.
        symlink("loop", root.join("loop")).unwrap();
        for (end, watched) in [("gone/policy.toml", "gone"), ("loop", "loop"), ("..2026/policy.toml/x", "..2026")] {
            assert!(Way::to(&root.join(end)).entries.contains(&root.join(watched)), "{end}");
        }
    }

    #[test]
    fn reading_is_no_change() {
        let file = PathBuf::from("/etc/nacld/policy.toml");
        let entries = BTreeSet::from([file.clone()]);
        let event = |kind| Event::new(kind).add_path(file.clone());
        assert!(!matters(&event(EventKind::Access(AccessKind::Open(AccessMode::Any))), &entries));
        assert!(!matters(&event(EventKind::Access(AccessKind::Close(AccessMode::Read))), &entries));
        assert!(matters(&event(EventKind::Access(AccessKind::Close(AccessMode::Write))), &entries));
        assert!(matters(&event(EventKind::Remove(notify::event::RemoveKind::File)), &entries));
        let other = Event::new(EventKind::Any).add_path("/etc/nacld/other".into());
        assert!(!matters(&other, &entries));
        assert!(matters(&other.set_flag(notify::event::Flag::Rescan), &entries));
    }
}
