//! `nacld diff`.

use std::path::Path;

use anyhow::bail;
use nacl_daemon::{analyze, report, report::diff::Files, resolve::NoHost};

use super::{policy::usable, print, width};
use crate::{
    Exit,
    cli::{self, DiffFormat},
};

pub fn run(args: &cli::Diff) -> anyhow::Result<Exit> {
    let stdin = Path::new("-");
    if args.old == stdin && args.new == stdin {
        bail!("standard input can be one of the two policies, not both");
    }
    // Both are read before either fails, so that everything that is wrong is shown at once.
    let (old, new) = match (usable(&args.old, &NoHost), usable(&args.new, &NoHost)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error),
        (Err(one), Err(other)) => {
            crate::print_error(&one);
            return Err(other);
        }
    };
    let difference = analyze::diff(&old, &new, args.interface.as_deref(), args.rules)?;
    let files = Files { old: &old.file, new: &new.file, unknown: &[] };
    let format = if args.json { DiffFormat::Json } else { args.format };
    print(match format {
        DiffFormat::Text => report::diff::text(files, &difference, width()),
        DiffFormat::Json => format!("{:#}\n", report::diff::json(files, &difference)),
        DiffFormat::Markdown => report::markdown::diff(files, &difference),
    })?;
    Ok(if args.exit_code && !difference.is_empty() { Exit::Different } else { Exit::Done })
}
