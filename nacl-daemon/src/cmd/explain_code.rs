//! `nacld explain-code`.

use nacl_daemon::{
    policy::codes::{self, Code},
    report,
};

use crate::{Exit, cli};

/// Where the output is no terminal.
const WIDTH: usize = 100;

pub fn run(args: &cli::ExplainCode) -> anyhow::Result<Exit> {
    let codes: &[&Code] = if args.codes.is_empty() { codes::ALL } else { &args.codes };
    let width = terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0).min(WIDTH));
    super::print(if args.json {
        report::json::pretty(&Codes { codes: report::codes::json(codes) })?
    } else if args.codes.is_empty() && !args.all {
        report::codes::list(codes)
    } else {
        let stories: Vec<_> = codes.iter().map(|code| report::codes::story(code, width)).collect();
        stories.join("\n")
    })?;
    Ok(Exit::Done)
}

/// Codes under a name, as every answer for machines is an object.
#[derive(serde::Serialize)]
struct Codes {
    codes: Vec<report::codes::Json>,
}
