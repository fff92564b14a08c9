//! A file of lines that grows, gives way to a new one and is compressed then, and is never left with half a line; and how a file is
//! made that is complete or not there. Knows nothing of what stands in it.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use flate2::{Compression, write::GzEncoder};

use crate::{resolve::flowlog::Rotation, service::state::chain};

/// Who may read it: the daemon's user and group. It says who talked to whom.
pub(super) const MODE: u32 = 0o640;

/// What stands around the name of a file that is being made until it is complete: so that no engine that reads a directory takes it for
/// a file of records.
const PART: (&str, &str) = (".", ".part");
/// What stands behind the name of one that was compressed.
const COMPRESSED: &str = ".gz";

/// Appends lines: all of them, or none where that fails. `head`: what every file begins with. The file gives way to a new one first
/// where it is full or old, or began otherwise.
pub fn append(path: &Path, rotation: Rotation, head: &[u8], text: &[u8], now: SystemTime) -> io::Result<()> {
    let (mut file, mut length) = open(path)?;
    // Lines without a head say themselves what they are, by their first sign.
    let start = if head.is_empty() { text.get(..1).unwrap_or_default() } else { head };
    if length > 0 && (is_due(&file, length + text.len() as u64, rotation, now)? || !begins(&file, start)?) {
        drop(file);
        rotate(path, rotation, now)?;
        (file, length) = open(path)?;
    }
    let head = if length == 0 { head } else { &[] };
    let written = file.write_all(head).and_then(|()| file.write_all(text));
    if written.is_err() {
        // Half a record would be read as a whole one of nonsense.
        let _ = file.set_len(length);
    }
    written
}

/// Opens it, without the piece of a line that a process which was killed may have left. Second: its length. What is no regular file
/// is refused: a pipe that nobody reads would take the records of a window and keep everybody else's waiting.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(MODE).custom_flags(libc::O_NONBLOCK);
    let mut file = options.open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        let message = "it is no regular file: for another program take \"stdout\", or `nacld flows --follow`";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let length = metadata.len();
    if length == 0 {
        permit(&file)?;
    }
    let whole = whole_lines(&mut file, length)?;
    if whole < length {
        file.set_len(whole)?;
    }
    Ok((file, whole))
}

/// A service's umask leaves its group nothing.
pub(super) fn permit(file: &File) -> io::Result<()> {
    if file.metadata()?.permissions().mode() & 0o777 == MODE {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(MODE))
}

/// Makes a file: complete and on the disk, or not at all. `write`: writes what is to stand in it.
pub(super) fn make(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!("{}{name}{}", PART.0, PART.1));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&part)?;
    let made = permit(&file).and_then(|()| write(&mut file)).and_then(|()| file.sync_all());
    let made = made.and_then(|()| fs::rename(&part, path));
    if made.is_err() {
        let _ = fs::remove_file(&part);
    }
    made
}

/// A path with something behind its name.
fn with(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// Whether a file begins so.
fn begins(file: &File, start: &[u8]) -> io::Result<bool> {
    let mut there = vec![0; start.len()];
    match file.read_exact_at(&mut there, 0) {
        Ok(()) => Ok(there == start),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
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

/// Gives the file a name of its time.
fn rotate(path: &Path, rotation: Rotation, now: SystemTime) -> io::Result<()> {
    let stamp: String =
        humantime::format_rfc3339_seconds(now).to_string().chars().filter(|sign| !matches!(sign, '-' | ':')).collect();
    let there = rotated(path)?;
    let number = (0..u32::MAX).find(|number| !there.contains_key(&(stamp.clone(), *number))).unwrap_or_default();
    let end = if number == 0 { format!("-{stamp}") } else { format!("-{stamp}.{number}") };
    fs::rename(path, with(path, &end))?;
    tidy(path, rotation);
    Ok(())
}

/// Removes what is more than is kept of the files that this one has given way from, and compresses the others. What a process that was
/// killed has left half done is done first, so no record stands in two files for longer than it takes. What fails is tried again with
/// the next one: no record is lost by it.
pub fn tidy(path: &Path, rotation: Rotation) {
    if let Err(error) = tidied(path, rotation) {
        tracing::warn!(file = %path.display(), reason = chain(&error), "what was rotated is not compressed yet");
    }
}

fn tidied(path: &Path, rotation: Rotation) -> io::Result<()> {
    let old: Vec<Old> = rotated(path)?.into_values().collect();
    let (more, kept) = old.split_at(old.len().saturating_sub(rotation.keep as usize));
    // First, because compressing needs room.
    for file in more.iter().flat_map(|old| [&old.plain, &old.compressed, &old.part]).flatten() {
        fs::remove_file(file)?;
    }
    for Old { plain, compressed, part } in kept {
        if let Some(part) = part {
            fs::remove_file(part)?;
        }
        let Some(plain) = plain else { continue };
        // It has its name once it is complete: then only the other had still to go.
        if compressed.is_none() {
            compress(plain)?;
        }
        fs::remove_file(plain)?;
    }
    Ok(())
}

fn compress(plain: &Path) -> io::Result<()> {
    let mut lines = File::open(plain)?;
    make(&with(plain, COMPRESSED), |file| {
        let mut encoder = GzEncoder::new(file, Compression::default());
        io::copy(&mut lines, &mut encoder)?;
        encoder.finish().map(drop)
    })
}

/// A file that gave way, in each form in which it is there.
#[derive(Default)]
struct Old {
    plain: Option<PathBuf>,
    compressed: Option<PathBuf>,
    part: Option<PathBuf>,
}

/// Files that this one has given way from, oldest first: by their time, and their number within a second.
fn rotated(path: &Path) -> io::Result<BTreeMap<(String, u32), Old>> {
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut found: BTreeMap<_, Old> = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let other = entry.file_name();
        let Some(other) = other.to_str() else { continue };
        let made = other.strip_prefix(PART.0).and_then(|other| other.strip_suffix(PART.1));
        let (other, is_part) = made.map_or((other, false), |other| (other, true));
        let Some(rest) = other.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')) else { continue };
        // 20261121T225503Z
        let Some((stamp, rest)) = rest.split_at_checked(16) else { continue };
        let is_stamp = stamp.bytes().enumerate().all(|(at, sign)| match at {
            8 => sign == b'T',
            15 => sign == b'Z',
            _ => sign.is_ascii_digit(),
        });
        if !is_stamp {
            continue;
        }
        let (rest, is_compressed) = rest.strip_suffix(COMPRESSED).map_or((rest, false), |rest| (rest, true));
        let number = match rest.strip_prefix('.') {
            Some(number) => number.parse().ok(),
            None => rest.is_empty().then_some(0),
        };
        let Some(number) = number else { continue };
        let old = found.entry((stamp.to_owned(), number)).or_default();
        let form = match (is_part, is_compressed) {
            (true, _) => &mut old.part,
            (false, true) => &mut old.compressed,
            (false, false) => &mut old.plain,
        };
        *form = Some(entry.path());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;

    const NEVER: Rotation = Rotation { mib: 1, hours: 0, keep: 2 };
    const HEAD: &[u8] = b"names\n";

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn unpacked(path: &Path) -> String {
        let mut text = String::new();
        GzDecoder::new(File::open(path).unwrap()).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn it_is_for_few_eyes_and_has_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows.log");
        let put = |line: &[u8]| append(&path, NEVER, HEAD, line, SystemTime::now()).unwrap();
        put(b"one\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        // As after a crash in the middle of a line.
        fs::write(&path, "names\none\ntw").unwrap();
        put(b"three\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "names\none\nthree\n");
        // And in the middle of the first one.
        fs::write(&path, "nam").unwrap();
        put(b"four\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "names\nfour\n");
        assert_eq!(names(directory.path()), ["flows.log"]);
    }

    #[test]
    fn what_is_full_or_old_gives_way_compressed_and_few_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows.log");
        let start = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 60);
        let big = |file: u8| [vec![b'0' + file; 700 << 10], b"\n".to_vec()].concat();
        for file in 0..5 {
            append(&path, NEVER, HEAD, &big(file), start + Duration::from_secs(file.into())).unwrap();
        }
        let old = names(directory.path());
        assert_eq!(old.len(), 3, "itself, and two old ones: {old:?}");
        for (name, file) in old[1..].iter().zip([2, 3]) {
            assert!(name.ends_with("Z.gz"), "{name}");
            let packed = directory.path().join(name);
            assert_eq!(fs::metadata(&packed).unwrap().permissions().mode() & 0o777, MODE);
            assert_eq!(unpacked(&packed).as_bytes(), [HEAD, &big(file)].concat());
        }
        assert_eq!(fs::read(&path).unwrap(), [HEAD, &big(4)].concat());
        // Files are as old as this machine says, whatever the year is there.
        let now = SystemTime::now();
        let daily = Rotation { hours: 24, keep: 9, ..NEVER };
        append(&path, daily, HEAD, b"young\n", now + Duration::from_hours(23)).unwrap();
        assert_eq!(names(directory.path()).len(), 3);
        append(&path, daily, HEAD, b"old\n", now + Duration::from_hours(25)).unwrap();
        append(&path, Rotation { hours: 1, ..daily }, HEAD, b"once more\n", now + Duration::from_hours(25)).unwrap();
        assert_eq!(names(directory.path()).len(), 5, "two within a second have two names");
        assert_eq!(fs::read_to_string(&path).unwrap(), "names\nonce more\n");
    }

    /// Another format, another style, and what a nacld wrote that knew no head.
    #[test]
    fn a_file_has_one_format() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows.log");
        fs::write(&path, "2 unknown\n").unwrap();
        for (head, line) in [(HEAD, "one\n"), (b"other\n", "two\n"), (b"", "{}\n"), (b"", "{\"three\": 3}\n")] {
            append(&path, Rotation { keep: 9, ..NEVER }, head, line.as_bytes(), SystemTime::now()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n{\"three\": 3}\n");
        let old: Vec<_> = rotated(&path).unwrap().into_values().map(|old| unpacked(&old.compressed.unwrap())).collect();
        assert_eq!(old, ["2 unknown\n", "names\none\n", "other\ntwo\n"]);
    }

    /// Killed at each step of compressing; what others have put there is left alone.
    #[test]
    fn what_was_left_half_done_is_done_by_the_next() {
        let stamp = "20261121T225503Z";
        let whole = |text: &str| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let text = "names\none\n";
        let plain = ("flows.log-S", text.as_bytes().to_vec());
        for files in [
            vec![plain.clone()],
            vec![plain.clone(), (".flows.log-S.gz.part", whole(text)[..9].to_vec())],
            vec![plain, ("flows.log-S.gz", whole(text))],
            vec![("flows.log-S.gz", whole(text))],
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("flows.log");
            let theirs = format!("flows.log-{stamp}.bak");
            fs::write(directory.path().join(&theirs), "theirs").unwrap();
            for (name, bytes) in &files {
                fs::write(directory.path().join(name.replace('S', stamp)), bytes).unwrap();
            }
            tidy(&path, NEVER);
            assert_eq!(names(directory.path()), [theirs, format!("flows.log-{stamp}.gz")]);
            assert_eq!(unpacked(&directory.path().join(format!("flows.log-{stamp}.gz"))), text);
        }
    }

    #[test]
    fn nothing_stays_of_what_cannot_be_written() {
        let device = Path::new("/dev/full");
        assert!(append(device, NEVER, HEAD, b"line\n", SystemTime::now()).is_err());
        assert!(append(Path::new("/nonexistent/flows.log"), NEVER, HEAD, b"line\n", SystemTime::now()).is_err());
        let directory = tempfile::tempdir().unwrap();
        let broken = make(&directory.path().join("one"), |file| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!((broken.unwrap_err().kind(), names(directory.path())), (io::ErrorKind::StorageFull, Vec::new()));
    }
}
