//! What a program needs of the machine it runs on, read from the program. No process is started: it may be of another
//! architecture.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, bail};
use object::{
    elf,
    read::elf::{Dyn as _, ElfFile64, FileHeader as _, SectionHeader as _},
};

/// Debian packages, with the oldest version that will do.
pub fn depends(program: &Path) -> Result<Vec<String>> {
    let data = fs::read(program).with_context(|| program.display().to_string())?;
    let (libraries, versions) = needs(&data).with_context(|| program.display().to_string())?;
    let mut packages = BTreeSet::new();
    for library in libraries {
        packages.insert(match library.as_str() {
            "libc.so.6" | "libm.so.6" | "ld-linux-x86-64.so.2" | "ld-linux-aarch64.so.1" => {
                format!("libc6 (>= {})", newest(&versions, "GLIBC_").context("libc is needed, and no version of it")?)
            }
            "libgcc_s.so.1" => "libgcc-s1".to_owned(),
            // Better no package than one that does not start.
            other => bail!("it needs {other}, and which Debian package has it is not known here"),
        });
    }
    Ok(packages.into_iter().collect())
}

/// The libraries it names, and the versions of their symbols.
fn needs(data: &[u8]) -> Result<(Vec<String>, BTreeSet<String>)> {
    let file = ElfFile64::<object::Endianness>::parse(data)?;
    let (endian, header) = (file.endian(), file.elf_header());
    let sections = header.sections(endian, data)?;
    let mut libraries = Vec::new();
    let mut versions = BTreeSet::new();
    for section in sections.iter() {
        if let Some((dynamic, link)) = section.dynamic(endian, data)? {
            let strings = sections.strings(endian, data, link)?;
            for entry in dynamic {
                if entry.tag(endian) == elf::DT_NEEDED {
                    let name = strings.get(entry.d_val.get(endian) as u32).ok().context("a library without a name")?;
                    libraries.push(String::from_utf8_lossy(name).into_owned());
                }
            }
        }
        if let Some((mut needed, link)) = section.gnu_verneed(endian, data)? {
            let strings = sections.strings(endian, data, link)?;
            while let Some((_, mut of)) = needed.next()? {
                while let Some(version) = of.next()? {
                    versions.insert(String::from_utf8_lossy(version.name(endian, strings)?).into_owned());
                }
            }
        }
    }
    if libraries.is_empty() {
        bail!("it names no library");
    }
    Ok((libraries, versions))
}

/// The newest of the versions that begin so.
fn newest(versions: &BTreeSet<String>, prefix: &str) -> Option<String> {
    let numbers = |text: &str| text.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().ok();
    let known = versions.iter().filter_map(|version| version.strip_prefix(prefix));
    known.filter_map(|text| Some((numbers(text)?, text.to_owned()))).max().map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_and_not_text() {
        let versions = ["GLIBC_2.9", "GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_PRIVATE", "GCC_4.2.0"];
        let versions = versions.map(str::to_owned).into();
        assert_eq!(newest(&versions, "GLIBC_").as_deref(), Some("2.34"));
        assert_eq!(newest(&versions, "NOTHING_"), None);
    }

    #[test]
    fn this_program_needs_libc() {
        let depends = depends(&std::env::current_exe().unwrap()).unwrap();
        assert!(depends.iter().any(|package| package.starts_with("libc6 (>= 2.")), "{depends:?}");
    }
}
