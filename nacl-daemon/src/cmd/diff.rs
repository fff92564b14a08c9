//! `nacld diff`.

use std::path::Path;

use nacl_daemon::{
    analyze,
    import::{Format, terraform::Half},
    inventory::{Because, Note},
    report,
    report::diff::Files,
    resolve::{NoHost, Resolved},
};

use super::{
    misuse,
    policy::{Source, loaded, resolved},
    print, width,
};
use crate::{
    Exit,
    cli::{self, DiffFormat},
};

pub fn run(args: &cli::Diff) -> anyhow::Result<Exit> {
    // Both are read before either fails, so that everything that is wrong is shown at once.
    let ((old, before), (new, after)) = match both(args)? {
        (Ok(old), Ok(new)) => (old, new),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error),
        (Err(one), Err(other)) => {
            crate::print_error(&one);
            return Err(other);
        }
    };
    let difference = analyze::diff(&old, &new, args.interface.as_deref(), args.rules)?;
    let mut unknown: Vec<Note> =
        before.into_iter().chain(after).filter(|note| note.because == Because::Unknown).collect();
    unknown.sort();
    unknown.dedup();
    // The two halves of a plan are told apart.
    let was = if args.new.is_none() { format!("{} (as found)", old.file) } else { old.file.clone() };
    let files = Files { old: &was, new: &new.file, unknown: &unknown };
    let format = if args.json { DiffFormat::Json } else { args.format };
    print(match format {
        DiffFormat::Text => report::diff::text(files, &difference, width()),
        DiffFormat::Json => format!("{:#}\n", report::diff::json(files, &difference)),
        DiffFormat::Markdown => report::markdown::diff(files, &difference),
    })?;
    Ok(if args.exit_code && !difference.is_empty() { Exit::Different } else { Exit::Done })
}

/// A policy, and what its documents left out.
type Read = anyhow::Result<(Resolved, Vec<Note>)>;

fn both(args: &cli::Diff) -> anyhow::Result<(Read, Read)> {
    let given = args.parameters.given();
    let read = |path: &Path, half| loaded(vec![Source::read(path)?], half, &given, &NoHost).and_then(resolved);
    let Some(new) = &args.new else {
        let source = Source::read(&args.old)?;
        if !matches!(source.document(), Some((Format::TerraformPlan, _))) {
            misuse!(
                "{} is compared with nothing: name two files, or one Terraform plan, which has both halves",
                source.file
            );
        }
        let read = |half| loaded(vec![source.clone()], half, &given, &NoHost).and_then(resolved);
        return Ok((read(Half::Prior), read(Half::Planned)));
    };
    let stdin = Path::new("-");
    if args.old == stdin && new == stdin {
        misuse!("standard input can be one of the two policies, not both");
    }
    Ok((read(&args.old, Half::Planned), read(new, Half::Planned)))
}
