//! Reading what a person wrote: whole, and bounded. What stands in it is for others to say.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Bytes that are read of a file at most. The largest answers of AWS's for a whole region, 2500 groups of 120 rules, are a tenth of it, and a policy
/// of AWS's largest quotas a thousandth; /dev/zero and a disk image have more.
pub const MOST: u64 = 128 << 20;

/// The bytes of a file.
///
/// # Errors
/// It cannot be read, or has more than [`MOST`] bytes.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    bounded(File::open(path)?)
}

/// Everything that comes from a reader.
///
/// # Errors
/// It cannot be read, or there are more than [`MOST`] bytes.
pub fn bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        let message = format!("it has more than {} MiB: nacld reads no more of a file", MOST >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_refused() {
        assert_eq!(read(Path::new("/dev/zero")).expect_err("too much").kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(bounded(&[7_u8; 100][..]).expect("little enough").len(), 100);
    }
}
