//! A file of lines that grows, gives way to a new one, and is never left with half a line. Knows nothing of what stands in it.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::resolve::flowlog::Rotation;

/// Who may read it: the daemon's user and group. It says who talked to whom.
const MODE: u32 = 0o640;

/// Appends lines: all of them, or none where that fails. The file gives way to a new one first where it is full or old.
pub fn append(path: &Path, rotation: Rotation, text: &[u8], now: SystemTime) -> io::Result<()> {
    let (mut file, mut length) = open(path)?;
    if length > 0 && is_due(&file, length + text.len() as u64, rotation, now)? {
        drop(file);
        rotate(path, rotation, now)?;
        (file, length) = open(path)?;
    }
    let written = file.write_all(text);
    if written.is_err() {
        // Half a record would be read as a whole one of nonsense. A pipe or a device has no length.
        let _ = file.set_len(length);
    }
    written
}

/// Opens it, without the piece of a line that a process which was killed may have left. Second: its length; 0 of what is no regular
/// file.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok((file, 0));
    }
    let length = metadata.len();
    if length == 0 && metadata.permissions().mode() & 0o777 != MODE {
        // A service's umask leaves its group nothing.
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    let whole = whole_lines(&mut file, length)?;
    if whole < length {
        file.set_len(whole)?;
    }
    Ok((file, whole))
}

/// How much of a file is whole lines.
fn whole_lines(file: &mut File, length: u64) -> io::Result<u64> {
    const PIECE: u64 = 4096;
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(PIECE);
        let mut piece = vec![0; (end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut piece)?;
        if let Some(at) = piece.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn is_due(file: &File, length: u64, rotation: Rotation, now: SystemTime) -> io::Result<bool> {
    let metadata = file.metadata()?;
    // File systems that do not know when a file was made know when it was changed.
    let made = metadata.created().or_else(|_| metadata.modified())?;
    let old = Duration::from_hours(rotation.hours.into());
    let is_old = !old.is_zero() && now.duration_since(made).is_ok_and(|age| age >= old);
    Ok(length > u64::from(rotation.mib) << 20 || is_old)
}

/// Gives the file a name of its time, and removes those that are more than are kept.
fn rotate(path: &Path, rotation: Rotation, now: SystemTime) -> io::Result<()> {
    let stamp: String =
        humantime::format_rfc3339_seconds(now).to_string().chars().filter(|sign| !matches!(sign, '-' | ':')).collect();
    let named = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(if number == 0 { format!("-{stamp}") } else { format!("-{stamp}.{number}") });
        PathBuf::from(name)
    };
    let free = (0..u32::MAX).map(named).find(|name| !name.exists()).unwrap_or_else(|| named(0));
    fs::rename(path, free)?;
    let mut old = rotated(path)?;
    old.sort();
    let more = old.len().saturating_sub(rotation.keep as usize);
    for file in &old[..more] {
        fs::remove_file(file)?;
    }
    Ok(())
}

/// Files that this one has given way from.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_one = |other: &str| {
        let stamp = other.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        // 20261121T225503Z
        stamp.is_some_and(|stamp| stamp.len() >= 16 && stamp.as_bytes()[8] == b'T' && stamp.as_bytes()[15] == b'Z')
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_one) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Rotation = Rotation { mib: 1, hours: 0, keep: 2 };

    fn names(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn it_is_for_few_eyes_and_has_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows.log");
        append(&path, NEVER, b"one\n", SystemTime::now()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        // As after a crash in the middle of a line.
        fs::write(&path, "one\ntw").unwrap();
        append(&path, NEVER, b"three\n", SystemTime::now()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\nthree\n");
        fs::write(&path, "o".repeat(10_000)).unwrap();
        append(&path, NEVER, b"four\n", SystemTime::now()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n");
    }

    #[test]
    fn what_is_full_or_old_gives_way_and_few_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows.log");
        let big = vec![b'\n'; 700 << 10];
        let start = SystemTime::now();
        for file in 0..5 {
            append(&path, NEVER, &big, start + Duration::from_secs(file)).unwrap();
        }
        assert_eq!(names(directory.path()), 3, "itself, and two old ones");
        assert_eq!(fs::metadata(&path).unwrap().len(), big.len() as u64);
        let daily = Rotation { hours: 24, keep: 9, ..NEVER };
        append(&path, daily, b"young\n", start + Duration::from_hours(23)).unwrap();
        assert_eq!(names(directory.path()), 3);
        append(&path, daily, b"old\n", start + Duration::from_hours(25)).unwrap();
        append(&path, Rotation { hours: 1, ..daily }, b"once more\n", start + Duration::from_hours(25)).unwrap();
        assert_eq!(names(directory.path()), 5, "two within a second have two names");
        assert_eq!(fs::read_to_string(&path).unwrap(), "once more\n");
    }

    #[test]
    fn nothing_stays_of_what_cannot_be_written() {
        let device = Path::new("/dev/full");
        assert!(append(device, NEVER, b"line\n", SystemTime::now()).is_err());
        assert!(append(Path::new("/nonexistent/flows.log"), NEVER, b"line\n", SystemTime::now()).is_err());
    }
}
