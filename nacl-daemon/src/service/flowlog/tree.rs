//! A directory that is laid out as AWS lays out a bucket: each window of each interface has a file of its own, which is there complete
//! or not at all. Knows names, and nothing of what stands in the files.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::file;
use crate::{
    observe::made_up_id,
    resolve::flowlog::{FlowLog, Tree},
};

/// Who may look in: the daemon's user and group, as into files.
const MODE: u32 = 0o750;

/// What a file tells of.
pub struct Contents<'c> {
    /// What tells this machine from others.
    pub machine: &'c str,
    /// What tells the window from others of this machine. The same window has the same name whenever it is written.
    pub window: &'c [&'c str],
    /// When the window began, Unix seconds.
    pub began: u64,
}

/// Where AWS would put the file, below the directory (F15).
pub fn place(log: &FlowLog, tree: &Tree, contents: &Contents<'_>, extension: &str) -> PathBuf {
    let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".to_owned());
    let (account, region) = (word(&log.identity.account), word(&log.identity.region));
    // 2026-11-21T22:55:03Z
    let time = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(contents.began));
    let time = time.to_string();
    let (year, month, day) = (&time[..4], &time[5..7], &time[8..10]);
    let (hour, minute) = (&time[11..13], &time[14..16]);
    let mut parts = vec![
        ("aws-account-id", account.as_str()),
        ("aws-service", "vpcflowlogs"),
        ("aws-region", &region),
        ("year", year),
        ("month", month),
        ("day", day),
    ];
    parts.extend(tree.per_hour_partition.then_some(("hour", hour)));
    let hive = tree.hive_compatible_partitions;
    let parts = parts.into_iter().map(|(key, value)| if hive { format!("{key}={value}") } else { value.to_owned() });
    let id = made_up_id("fl-", &[contents.machine, &log.name]);
    let hash = made_up_id("", &[&[contents.machine], contents.window].concat());
    let stamp = format!("{year}{month}{day}T{hour}{minute}Z");
    let name = format!("{account}_vpcflowlogs_{region}_{id}_{stamp}_{}.{extension}", &hash[..8]);
    ["AWSLogs".to_owned()].into_iter().chain(parts).chain([name]).collect()
}

/// Puts a file there.
pub fn put(root: &Path, place: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = root.join(place);
    directories(path.parent().unwrap_or(root))?;
    file::make(&path, |file| file.write_all(bytes))
}

/// Makes a directory and those above it.
fn directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), directories)?;
    match DirBuilder::new().mode(MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // A service's umask leaves its group nothing.
        made => made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(MODE))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::flowlog::{Destination, FileFormat, Identity};

    #[test]
    fn files_are_called_and_placed_as_aws_does() {
        let tree = |hive, hourly| Tree {
            root: PathBuf::from("/var/log/nacld/flows/"),
            file_format: FileFormat::PlainText,
            hive_compatible_partitions: hive,
            per_hour_partition: hourly,
        };
        let identity = Identity {
            account: Some("123456789012".to_owned()),
            region: Some("us-east-1".to_owned()),
            ..Identity::default()
        };
        let log = FlowLog { identity, ..FlowLog::new("flows", Destination::Stdout) };
        // 2018-06-20, 16:23 and three seconds.
        let contents = |window| Contents { machine: "one", window, began: 1_529_511_783 };
        let place = |hive, hourly, window| {
            let place = place(&log, &tree(hive, hourly), &contents(window), "log.gz");
            place.into_os_string().into_string().unwrap()
        };
        let whole = place(false, false, &["7"]);
        let id = made_up_id("fl-", &["one", "flows"]);
        let hash = &whole[whole.len() - "01234567.log.gz".len()..][..8];
        assert!(hash.bytes().all(|digit| digit.is_ascii_hexdigit()), "{whole}");
        let name = format!("123456789012_vpcflowlogs_us-east-1_{id}_20180620T1623Z_{hash}.log.gz");
        assert_eq!(whole, format!("AWSLogs/123456789012/vpcflowlogs/us-east-1/2018/06/20/{name}"));
        let hive = "AWSLogs/aws-account-id=123456789012/aws-service=vpcflowlogs/aws-region=us-east-1";
        assert_eq!(place(true, false, &["7"]), format!("{hive}/year=2018/month=06/day=20/{name}"));
        assert_eq!(place(true, true, &["7"]), format!("{hive}/year=2018/month=06/day=20/hour=16/{name}"));
        assert_ne!(place(false, false, &["8"]), whole, "another window has another name");
    }

    #[test]
    fn a_file_is_there_complete_and_for_few_eyes() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("flows");
        let place = Path::new("AWSLogs/year=2026/one.log.gz");
        for bytes in [b"first", b"again"] {
            put(&root, place, bytes).unwrap();
            assert_eq!(fs::read(root.join(place)).unwrap(), bytes);
        }
        let directory = root.join("AWSLogs/year=2026");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, MODE);
        fs::create_dir(root.join("AWSLogs/file")).unwrap();
        assert!(put(&root, Path::new("AWSLogs/file"), b"in the way").is_err());
        assert_eq!(fs::read_dir(root.join("AWSLogs")).unwrap().count(), 2, "nothing is left of it");
    }
}
