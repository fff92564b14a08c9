//! `run --follow`: every way in which a file is changed, with real files. Each change is waited for, none is timed.

use std::{os::unix::fs::symlink, path::Path, process::Command};

use crate::*;

/// A policy that can be told from others.
fn text(number: usize) -> String {
    format!("{WEB}# {number}\n")
}

fn digest(text: &str) -> String {
    prepare::digest(text.as_bytes())
}

/// A daemon that follows the file of this name in its directory. What stands in the directory by then is what `prepare` makes.
async fn following(name: &str, prepare: impl FnOnce(&Path)) -> Daemon {
    let directory = tempfile::tempdir().unwrap();
    prepare(directory.path());
    let file = directory.path().join(name);
    let fake = Fake::default();
    Daemon::start_in(directory, &text(0), fake, |config| {
        config.follow = true;
        config.file = file;
    })
    .await
}

impl Daemon {
    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn until(&self, what: &str, is_so: impl Fn(&nacl_daemon::observe::Status) -> bool) {
        let start = Instant::now();
        loop {
            let status = self.client.status().await.unwrap();
            if is_so(&status) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "never: {what}: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a text is in force.
    async fn follows(&self, how: &str, text: &str) {
        let digest = digest(text);
        self.until(how, |status| status.policy.sha256 == digest).await;
    }
}

#[tokio::test]
async fn however_an_editor_writes_it() {
    let daemon = following("policy.toml", |at| fs::write(at.join("policy.toml"), text(0)).unwrap()).await;
    let (file, new) = (daemon.at("policy.toml"), daemon.at("policy.toml~"));
    // In place, as `echo >` and nano do.
    fs::write(&file, text(1)).unwrap();
    daemon.follows("written in place", &text(1)).await;
    // By a new file, as vim and most others do: the old one is kept beside it, or not.
    fs::rename(&file, daemon.at("policy.toml.bak")).unwrap();
    fs::write(&file, text(2)).unwrap();
    daemon.follows("moved away and written anew", &text(2)).await;
    fs::write(&new, text(3)).unwrap();
    fs::rename(&new, &file).unwrap();
    daemon.follows("replaced", &text(3)).await;
    let sed = Command::new("sed").args(["-i", "s/^# 3$/# 4/"]).arg(&file).status().expect("sed is on every system");
    assert!(sed.success());
    daemon.follows("sed -i", &text(4)).await;
    // By a link to another file, and that file.
    fs::write(&new, text(5)).unwrap();
    fs::remove_file(&file).unwrap();
    fs::hard_link(&new, &file).unwrap();
    daemon.follows("a hard link", &text(5)).await;
    fs::remove_file(&file).unwrap();
    fs::create_dir(daemon.at("elsewhere")).unwrap();
    fs::write(daemon.at("elsewhere/web.toml"), text(6)).unwrap();
    symlink("elsewhere/web.toml", &file).unwrap();
    daemon.follows("a link", &text(6)).await;
    fs::write(daemon.at("elsewhere/web.toml"), text(7)).unwrap();
    daemon.follows("what the link leads to", &text(7)).await;
    // In two halves, of which the first cannot be used.
    let (first, second) = (text(8)[..100].to_owned(), text(8)[100..].to_owned());
    let mut open = fs::File::create(daemon.at("elsewhere/web.toml")).unwrap();
    open.write_all(first.as_bytes()).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    open.write_all(second.as_bytes()).unwrap();
    drop(open);
    daemon.follows("in two halves", &text(8)).await;
    assert!(daemon.fake.names() == ["fake0"]);
}

#[tokio::test]
async fn as_kubernetes_swaps_a_config_map() {
    let version = |at: &Path, number: usize| {
        let directory = at.join(format!("..2026_{number}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("policy.toml"), text(number)).unwrap();
    };
    let daemon = following("policy.toml", |at| {
        version(at, 0);
        symlink("..2026_0", at.join("..data")).unwrap();
        symlink("..data/policy.toml", at.join("policy.toml")).unwrap();
    })
    .await;
    for number in 1..4 {
        version(daemon.directory.path(), number);
        symlink(format!("..2026_{number}"), daemon.at("..data_tmp")).unwrap();
        fs::rename(daemon.at("..data_tmp"), daemon.at("..data")).unwrap();
        fs::remove_dir_all(daemon.at(&format!("..2026_{}", number - 1))).unwrap();
        daemon.follows("swapped", &text(number)).await;
    }
}

#[tokio::test]
async fn directories_that_go_and_come() {
    let make = |at: &Path, number: usize| {
        fs::create_dir_all(at.join("etc/nacld")).unwrap();
        fs::write(at.join("etc/nacld/policy.toml"), text(number)).unwrap();
    };
    let daemon = following("etc/nacld/policy.toml", |at| make(at, 0)).await;
    // Removed, and made again with another text.
    fs::remove_dir_all(daemon.at("etc")).unwrap();
    make(daemon.directory.path(), 1);
    daemon.follows("made again", &text(1)).await;
    // Another directory in its place.
    make(&daemon.at("new"), 2);
    fs::rename(daemon.at("etc"), daemon.at("old")).unwrap();
    fs::rename(daemon.at("new/etc"), daemon.at("etc")).unwrap();
    daemon.follows("exchanged", &text(2)).await;
    fs::write(daemon.at("etc/nacld/policy.toml"), text(3)).unwrap();
    daemon.follows("written in the new one", &text(3)).await;
    // Away for so long that it is told; the policy stays.
    fs::rename(daemon.at("etc/nacld"), daemon.at("etc/away")).unwrap();
    let told = "cannot read the policy";
    let fails = |status: &nacl_daemon::observe::Status| {
        let error = status.last_reload.as_ref().and_then(|reload| reload.error.as_deref());
        error.is_some_and(|error| error.contains(told))
    };
    daemon.until(told, fails).await;
    daemon.follows("the policy stays", &text(3)).await;
    assert_eq!(daemon.fake.names(), ["fake0"]);
    fs::rename(daemon.at("etc/away"), daemon.at("etc/nacld")).unwrap();
    // The same text as before: it is put in force again, so that the failure is not the last word.
    daemon.until("it is back", |status| status.last_reload.as_ref().is_some_and(|reload| reload.ok)).await;
}

#[tokio::test]
async fn only_other_bytes_are_put_in_force_and_only_good_ones() {
    let daemon = following("policy.toml", |at| fs::write(at.join("policy.toml"), text(0)).unwrap()).await;
    let file = daemon.at("policy.toml");
    let epoch = || daemon.fake.lock().attached["fake0"].epoch;
    let before = epoch();
    // Touched, replaced by the same, and read: nothing of it is a change. What follows shows that it was looked at.
    fs::File::options().append(true).open(&file).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    fs::write(&file, text(0)).unwrap();
    drop(fs::read(&file).unwrap());
    fs::write(daemon.at("other.toml"), text(9)).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    fs::write(&file, text(1)).unwrap();
    daemon.follows("a change", &text(1)).await;
    assert_eq!(epoch(), before + 1);
    // A file that cannot be used changes nothing, says why, and is not tried twice.
    fs::write(&file, "version = 1\nnonsense").unwrap();
    daemon.until("it is refused", |status| status.last_reload.as_ref().is_some_and(|reload| !reload.ok)).await;
    let status = daemon.client.status().await.unwrap();
    assert!(status.last_reload.unwrap().error.unwrap().contains("has 1 error"));
    assert_eq!((status.policy.sha256, epoch()), (digest(&text(1)), before + 1));
    fs::write(&file, text(2)).unwrap();
    daemon.follows("a good one", &text(2)).await;
    assert_eq!(epoch(), before + 2);
    // Somebody who reloads by hand at the same time is not in the way.
    fs::write(&file, text(3)).unwrap();
    drop(daemon.client.reload(false, None).await);
    daemon.follows("by hand", &text(3)).await;
    fs::write(&file, text(4)).unwrap();
    daemon.follows("by itself", &text(4)).await;
}

#[tokio::test]
async fn it_waits_while_a_change_awaits_confirmation() {
    let daemon = following("policy.toml", |at| fs::write(at.join("policy.toml"), text(0)).unwrap()).await;
    let file = daemon.at("policy.toml");
    let pending = Some(Duration::from_mins(10));
    // The same text awaits confirmation; the next must not undo that, nor be lost.
    daemon.client.reload(false, pending).await.unwrap();
    fs::write(&file, text(1)).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let status = daemon.client.status().await.unwrap();
    assert!(status.pending.is_some() && status.policy.sha256 == digest(&text(0)), "{status:?}");
    daemon.client.confirm().await.unwrap();
    daemon.follows("afterwards", &text(1)).await;
    // One that was rolled back is not put in force by itself.
    daemon.client.reload(false, pending).await.unwrap();
    daemon.client.roll_back().await.unwrap();
    fs::write(&file, text(1)).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    fs::write(&file, text(2)).unwrap();
    daemon.follows("another text", &text(2)).await;
}
