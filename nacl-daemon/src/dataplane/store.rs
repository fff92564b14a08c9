//! Where programs, maps and links outlive the process: pins in a bpffs of our own, and beside them, one file an interface, what a
//! process that finds them must know. Knows paths and files; what is pinned and written is the caller's.
//!
//! `ROOT/bpf/VERSION/NAMESPACE-INDEX/…` are the pins, `ROOT/interfaces/NAMESPACE-INDEX/` the record and the lock of
//! whoever is in charge: by index, because an interface may be renamed. VERSION is a digest of the kernel programs: pins of another are recognised, and never opened as ours.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::{AccessFlags, access},
};

use super::{DataplaneError, device::Device, hold::Link, object};

/// Only for root: who may open a pin may change what is enforced.
const MODE: u32 = 0o700;

/// Places of one daemon.
#[derive(Clone, Debug)]
pub struct Store {
    bpf: PathBuf,
    records: PathBuf,
    owner: String,
    fleeting: bool,
}

/// An interface in the store, under lock.
pub struct Home {
    name: String,
    /// Who was in charge last.
    owner: String,
    bpf: PathBuf,
    records: PathBuf,
    lock: Flock<File>,
}

/// What can be done about a place that cannot be had.
fn failed(path: &Path) -> impl Fn(io::Error) -> DataplaneError {
    let path = path.to_owned();
    move |source| DataplaneError::Store { path: path.clone(), source }
}

impl Store {
    /// Opens the store below a directory, and mounts a bpffs there unless one is. `owner` tells daemons apart.
    ///
    /// # Errors
    /// A directory cannot be made, or the bpffs not be mounted.
    pub fn open(root: &Path, owner: String) -> Result<Self, DataplaneError> {
        let (bpf, records) = (root.join(BPF), root.join(RECORDS));
        let make = |path: &Path| DirBuilder::new().recursive(true).mode(MODE).create(path).map_err(failed(path));
        DirBuilder::new().recursive(true).mode(0o755).create(root).map_err(failed(root))?;
        make(&records)?;
        let fleeting = !is_bpffs(&bpf) && own_mounts() == Some(true);
        if !is_bpffs(&bpf) {
            make(&bpf)?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RELATIME;
            mount(Some("nacld"), &bpf, Some("bpf"), flags, Some("mode=0700"))
                .map_err(|errno| DataplaneError::Mount { path: bpf.clone(), source: errno.into() })?;
        }
        Ok(Self { bpf, records, owner, fleeting })
    }

    /// The store below a directory, if there is one, for whoever clears up. Mounts and makes nothing.
    pub fn existing(root: &Path) -> Option<Self> {
        let (bpf, records) = (root.join(BPF), root.join(RECORDS));
        is_bpffs(&bpf).then(|| Self { bpf, records, owner: String::new(), fleeting: false })
    }

    /// Removes what is kept of an interface, unless somebody is in charge of it.
    pub fn forget(&self, namespace: u64, device: &Device) -> Result<(), DataplaneError> {
        if !self.records.join(name(namespace, device)).exists() {
            return Ok(());
        }
        match self.lock(namespace, device) {
            Ok(home) => home.leave(),
            // Of a daemon that does not answer: its programs are gone, and it may still write here.
            Err(DataplaneError::Held { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes what is kept of interfaces that are gone, with a line for each.
    pub fn forget_the_dead(&self) -> Vec<String> {
        let dead = self.abandoned().into_iter().filter(|home| {
            let links = home.links();
            links.is_empty() || links.iter().all(|link| link.on().is_ok_and(|on| on.ifindex == 0))
        });
        let left = dead.filter_map(|home| {
            let name = home.name().to_owned();
            home.leave().is_ok().then(|| format!("what was kept of an interface that is gone ({name})"))
        });
        left.collect()
    }

    /// Whose daemon writes here.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Whether what is pinned ends with this process' mount namespace, as in the one that `ip netns exec` makes.
    pub const fn is_fleeting(&self) -> bool {
        self.fleeting
    }

    /// Takes charge of an interface. `namespace`: the inode of its network namespace, which tells it from others for as long as
    /// it lives.
    ///
    /// # Errors
    /// Somebody else is in charge, or the directory cannot be had.
    pub fn lock(&self, namespace: u64, device: &Device) -> Result<Home, DataplaneError> {
        let mut home = self.lock_name(&name(namespace, device), &device.name)?;
        home.owner.clone_from(&self.owner);
        home.claim()?;
        Ok(home)
    }

    fn lock_name(&self, name: &str, device: &str) -> Result<Home, DataplaneError> {
        let records = self.records.join(name);
        DirBuilder::new().recursive(true).mode(MODE).create(&records).map_err(failed(&records))?;
        let path = records.join(LOCK);
        let mut lock = loop {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let lock = match Flock::lock(file.map_err(failed(&path))?, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((mut file, Errno::EWOULDBLOCK)) => {
                    let mut holder = String::new();
                    let _ = file.read_to_string(&mut holder);
                    return Err(DataplaneError::Held { device: device.to_owned(), holder: holder.trim().to_owned() });
                }
                Err((_, errno)) => return Err(failed(&path)(errno.into())),
            };
            // Whoever was in charge before may have removed the file that we had just opened.
            let ours = lock.metadata().map_err(failed(&path))?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
                break lock;
            }
        };
        let mut holder = String::new();
        let _ = lock.read_to_string(&mut holder);
        // As the line is written below.
        let owner = holder.trim().split_once(FOR).map(|(_, owner)| owner.to_owned()).unwrap_or_default();
        Ok(Home { name: name.to_owned(), owner, bpf: self.bpf.clone(), records, lock })
    }

    /// Every interface that somebody left here and nobody is in charge of.
    pub fn abandoned(&self) -> Vec<Home> {
        let entries = fs::read_dir(&self.records).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| self.lock_name(&name, &name).ok()).collect()
    }

    /// Leaves nothing where nothing is kept. What is not empty stays, and so does a bpffs that others use.
    pub fn close(&self) {
        for version in fs::read_dir(&self.bpf).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(version.path());
        }
        // The kernel puts two of its own into some (`maps.debug`, `progs.debug`).
        let its_own = |name: &OsStr| Path::new(name).extension().is_some_and(|extension| extension == "debug");
        let empty =
            fs::read_dir(&self.bpf).is_ok_and(|mut all| all.all(|one| one.is_ok_and(|one| its_own(&one.file_name()))));
        if empty && is_bpffs(&self.bpf) && umount2(&self.bpf, MntFlags::empty()).is_ok() {
            let _ = fs::remove_dir(&self.bpf);
        }
        let _ = fs::remove_dir(&self.records);
        if let Some(root) = self.bpf.parent() {
            // Fails where the socket or anything else is in it.
            let _ = fs::remove_dir(root);
        }
    }
}

/// What an interface is called here.
fn name(namespace: u64, device: &Device) -> String {
    format!("{namespace}-{}", device.ifindex)
}

/// Whether this process sees other mounts than the machine's first one, as `ip netns exec` makes it for its child; `None` for
/// whoever may not look.
fn own_mounts() -> Option<bool> {
    let mounts = |process: &str| fs::metadata(format!("/proc/{process}/ns/mnt")).map(|namespace| namespace.ino());
    Some(mounts("self").ok()? != mounts("1").ok()?)
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// What a store below a directory would find there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// The directory.
    pub root: PathBuf,
    /// Whether a bpffs is mounted in it.
    pub mounted: bool,
    /// Whether this process may write to all of it.
    pub writable: bool,
    /// Whether this process sees other mounts than the machine's first one; `None` where it may not look.
    pub own_mounts: Option<bool>,
}

impl Site {
    /// Looks at a directory. Mounts and makes nothing.
    pub fn of(root: &Path) -> Self {
        let writable = |path: &Path| access(path, AccessFlags::W_OK).is_ok();
        let (bpf, records) = (root.join(BPF), root.join(RECORDS));
        let records_writable = if records.exists() { writable(&records) } else { writable(root) };
        Self {
            root: root.to_owned(),
            mounted: is_bpffs(&bpf),
            writable: writable(&bpf) && records_writable,
            own_mounts: own_mounts(),
        }
    }

    /// Where the bpffs is to be.
    pub fn bpf(&self) -> PathBuf {
        self.root.join(BPF)
    }
}

/// The bpffs, below the directory.
const BPF: &str = "bpf";
/// The records, likewise.
const RECORDS: &str = "interfaces";

/// What stands before the name of a directory whose pins are not complete yet, or no longer.
const STAGING: &str = "staging-";
const REPLACED: &str = "replaced-";

/// The lock's name, and what stands in it between a process and what it is called by.
const LOCK: &str = "lock";
const FOR: &str = ", which listens on ";

/// The record's name.
const RECORD: &str = "record.json";

impl Home {
    /// Writes down who is in charge.
    pub fn claim(&mut self) -> Result<(), DataplaneError> {
        let who = format!("nacld (process {}){FOR}{}\n", std::process::id(), self.owner);
        let lock = &mut self.lock;
        let written = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(who.as_bytes()));
        written.map_err(failed(&self.records.join(LOCK)))
    }

    /// Who was in charge last, or is.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Its name in the store.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is of the network namespace with this inode.
    pub fn is_of(&self, namespace: u64) -> bool {
        self.name.split_once('-').is_some_and(|(id, _)| id.parse() == Ok(namespace))
    }

    fn version(&self) -> PathBuf {
        self.bpf.join(object::version())
    }

    /// Where complete pins of this version stand.
    pub fn pins(&self) -> PathBuf {
        self.version().join(&self.name)
    }

    /// Makes an empty directory for pins.
    pub fn stage(&self) -> Result<Staging<'_>, DataplaneError> {
        let path = self.version().join(format!("{STAGING}{}", self.name));
        remove(&path).map_err(failed(&path))?;
        DirBuilder::new().recursive(true).mode(MODE).create(&path).map_err(failed(&path))?;
        Ok(Staging { home: self, path })
    }

    /// Every directory with pins of this interface: of this version and others, complete or not.
    fn directories(&self) -> Vec<PathBuf> {
        let names = [self.name.clone(), format!("{STAGING}{}", self.name), format!("{REPLACED}{}", self.name)];
        let versions = fs::read_dir(&self.bpf).into_iter().flatten().flatten().map(|entry| entry.path());
        versions.flat_map(|version| names.clone().map(|name| version.join(name))).filter(|path| path.is_dir()).collect()
    }

    /// Every link that is pinned for this interface, whichever version and however complete.
    pub fn links(&self) -> Vec<Link> {
        let mut links = Vec::new();
        let mut known = Vec::new();
        for directory in self.directories() {
            for name in [INGRESS, EGRESS] {
                let Ok(link) = Link::pinned(&directory.join(name)) else { continue };
                let Ok(on) = link.on() else { continue };
                // One link may be pinned in more than one.
                if !known.contains(&on) {
                    known.push(on);
                    links.push(link);
                }
            }
        }
        links
    }

    /// Removes all pins of this interface and its record. The links among them end with it.
    pub fn clear(&self) -> Result<(), DataplaneError> {
        for directory in self.directories() {
            remove(&directory).map_err(failed(&directory))?;
        }
        let record = self.records.join(RECORD);
        match fs::remove_file(&record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&record)(error)),
            _ => Ok(()),
        }
    }

    /// As [`Self::clear`], and gives up the charge: nothing of the interface stays.
    pub fn leave(self) -> Result<(), DataplaneError> {
        self.clear()?;
        self.vacate()
    }

    /// Removes what is left of an interface of which nothing is kept, while it is still locked, so that nobody takes charge of a
    /// file that is about to go.
    fn vacate(&self) -> Result<(), DataplaneError> {
        let _ = fs::remove_dir(self.version());
        let lock = self.records.join(LOCK);
        fs::remove_file(&lock).map_err(failed(&lock))?;
        fs::remove_dir(&self.records).map_err(failed(&self.records))
    }

    /// Writes the record: all of it or, where the machine stops in the middle, nothing.
    pub fn write(&self, text: &[u8]) -> Result<(), DataplaneError> {
        let (record, new) = (self.records.join(RECORD), self.records.join("record.new"));
        let write = || {
            let mut file = File::create(&new)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(text)?;
            file.sync_data()?;
            fs::rename(&new, &record)
        };
        write().map_err(failed(&record))
    }

    /// The record, if there is one.
    pub fn read(&self) -> Option<Vec<u8>> {
        fs::read(self.records.join(RECORD)).ok()
    }
}

/// Pins in the making; they count for nothing until [`Self::commit`]. Where that never comes, nothing of them stays.
pub struct Staging<'h> {
    home: &'h Home,
    path: PathBuf,
}

impl Staging<'_> {
    /// Where they stand.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the record and makes these the pins of the interface; all others of it go, of any version.
    pub fn commit(self, record: &[u8]) -> Result<(), DataplaneError> {
        let home = self.home;
        home.write(record)?;
        let pins = home.pins();
        let replaced = home.version().join(format!("{REPLACED}{}", home.name));
        if pins.exists() {
            fs::rename(&pins, &replaced).map_err(failed(&pins))?;
        }
        fs::rename(&self.path, &pins).map_err(failed(&self.path))?;
        for other in home.directories().into_iter().filter(|directory| *directory != pins) {
            remove(&other).map_err(failed(&other))?;
        }
        Ok(())
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // Nothing is here any more once it was committed.
        let removed = remove(&self.path).map_err(failed(&self.path)).and_then(|()| {
            let kept = self.home.read().is_some() || !self.home.directories().is_empty();
            if kept { Ok(()) } else { self.home.vacate() }
        });
        if let Err(error) = removed {
            tracing::warn!(pins = self.home.name, reason = %error, "pins that came to nothing stay");
        }
    }
}

/// Names of the links in a directory of pins; everything else is a map or a program.
pub const INGRESS: &str = "ingress";
/// Likewise.
pub const EGRESS: &str = "egress";
/// Names of the programs.
pub const PROGRAMS: [&str; 2] = ["ingress_program", "egress_program"];

/// Whether a pin of this name is a link or a program.
pub fn is_no_map(name: &str) -> bool {
    [INGRESS, EGRESS].contains(&name) || PROGRAMS.contains(&name)
}

/// Removes a directory of pins, where it is there.
fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
