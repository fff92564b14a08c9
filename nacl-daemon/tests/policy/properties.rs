//! No text makes the loader stumble, and whatever it says points into the text.

use std::{fs, path::Path, sync::LazyLock};

use nacl_daemon::{
    policy::{self, Outcome, Severity},
    report::diagnostics,
    resolve::{NoHost, flowlog::Format},
};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestCaseError};

/// Every policy of `config/` and `config/invalid/`.
static TEXTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let mut texts = Vec::new();
    for directory in [config.clone(), config.join("invalid")] {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                texts.push(String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned());
            }
        }
    }
    texts.sort();
    assert!(texts.len() > 40);
    texts
});

fn holds(text: &str) -> Result<(), TestCaseError> {
    let Outcome { resolved, diagnostics } = policy::load("any.toml", text, &NoHost);
    let failed = diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    prop_assert_eq!(resolved.is_none(), failed);
    for diagnostic in &diagnostics {
        let spans = [&diagnostic.span]
            .into_iter()
            .chain(diagnostic.labels.iter().map(|label| &label.span))
            .chain(diagnostic.fix.iter().map(|fix| &fix.span));
        for span in spans {
            prop_assert!(text.get(span.clone()).is_some(), "{:?} in {:#?}", span, diagnostic);
        }
        prop_assert!(!diagnostic.message.is_empty() && !diagnostic.message.contains('\n'));
    }
    // A page of findings is as good as all of them here.
    let some = &diagnostics[..diagnostics.len().min(12)];
    let plain = diagnostics::render("any.toml", text, some, false);
    prop_assert_eq!(plain.is_empty(), some.is_empty());
    prop_assert!(!plain.contains('\u{1b}'), "a policy must not steer the terminal: {:?}", plain);
    prop_assert_eq!(diagnostics::json(text, &diagnostics).len(), diagnostics.len());
    Ok(())
}

/// Words of the language, in any order.
fn soup() -> impl Strategy<Value = String> {
    let word = select(vec![
        "version = 1\n",
        "[nacl.web]\n",
        "[[nacl.web.inbound]]\n",
        "[interface.eth0]\n",
        "[subnet.a]\n",
        "[vpc]\n",
        "[vpc.x]\n",
        "[eni.e]\n",
        "[security_group.g]\n",
        "[[security_group.g.outbound]]\n",
        "[prefix_list.p]\n",
        "[tracking]\n",
        "udp = 30\n",
        "tcp_established = -1\n",
        "profile = \"nitro-v6\"\n",
        "[flow_log.f]\n",
        "flow_log = \"f\"\n",
        "destination = \"stdout\"\n",
        "destination = \"/x\"\n",
        "format = \"${version} ${srcaddr} ${é\"\n",
        "format = \"\"\n",
        "interval = 61\n",
        "account_id = \"1 2\"\n",
        "security_groups = [",
        "\"g\"",
        "failsafe = [",
        "device = \"eth0\"",
        "layers = \"sg\"",
        "entries = [",
        "max_entries = 1",
        "inbound = [",
        "outbound = [",
        "{ ",
        " }",
        "]",
        "\n",
        ", ",
        " = ",
        "rule = 100",
        "rule = \"*\"",
        "rule = -1",
        "action = \"allow\"",
        "action = \"deny\"",
        "protocol = \"tcp\"",
        "protocol = 58",
        "protocol = \"all\"",
        "ports = \"http\"",
        "ports = \"9-1\"",
        "ports = 80",
        "source = \"0.0.0.0/0\"",
        "source = \"subnet:a\"",
        "source = \"sg:g\"",
        "source = \"self\"",
        "source = \"pl:p\"",
        "destination = \"::1/64\"",
        "cidrs = [",
        "\"10.0.0.0/8\"",
        "\"10.0.0.1/8\"",
        "nacl = \"web\"",
        "subnet = \"a\"",
        "icmp = { type = 8 }",
        "enforce = true",
        "mode = 7",
        "addresses = [",
        "\"é\"",
        "\u{feff}",
        "'",
        "\"\"\"",
        "# ü\n",
        "\r\n",
        "\t",
        "1e9",
        "0x1f",
        "1979-05-27",
        "[nacl.\"\\u001b[31m\\n\"]\n",
        "[subnet.\"a\\\"b\"]\n",
        "subnet = \"a\\\"c\"",
        "\u{1b}[31m",
        "netns = \"/\"",
    ]);
    vec(word, 0..60).prop_map(|words| words.concat())
}

/// A policy with a few places cut out, doubled, or replaced.
fn mutated() -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0..40_usize, "\\PC{0,6}|[\\[\\]{}\"',=#\n\r\t\0.]{1,3}", 0..3_u8);
    (select(&TEXTS[..]), vec(edit, 1..6)).prop_map(|(mut text, edits)| {
        for (at, length, insert, kind) in edits {
            let start = text.floor_char_boundary(at.index(text.len() + 1));
            let end = text.ceil_char_boundary((start + length).min(text.len()));
            match kind {
                0 => text.replace_range(start..end, ""),
                1 => text.replace_range(start..end, &insert),
                _ => {
                    let piece = text[start..end].to_owned();
                    text.insert_str(start, &piece);
                }
            }
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_is_answered(text in "\\PC{0,200}") {
        holds(&text)?;
    }

    #[test]
    fn arbitrary_bytes_are_answered(bytes in vec(any::<u8>(), 0..300)) {
        match policy::decode(bytes) {
            Ok(text) => holds(&text)?,
            Err(broken) => {
                let (text, diagnostic) = *broken;
                prop_assert_eq!(text.get(diagnostic.span.clone()), Some("\u{fffd}"));
                diagnostics::render("any.toml", &text, &[diagnostic], false);
            }
        }
    }

    #[test]
    fn words_in_any_order_are_answered(text in soup()) {
        holds(&text)?;
    }

    /// A format is read or refused with places inside it, and what is read is written the same.
    #[test]
    fn any_format_is_answered(text in "(\\$\\{[a-z-]{0,12}\\}|\\$\\{(srcaddr|version|tcp-flags|ecs-task-id|type)\\}|[ \t]|\\PC){0,12}") {
        match Format::read(&text) {
            Ok(format) => prop_assert_eq!(Format::read(&format.to_string()), Ok(format)),
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                for error in errors {
                    prop_assert!(text.get(error.span.clone()).is_some(), "{:?} in {:?}", error, text);
                }
            }
        }
    }

    #[test]
    fn policies_with_slips_are_answered(text in mutated()) {
        holds(&text)?;
    }
}

/// What is nested without end is refused, not followed.
#[test]
fn deep_nesting_is_answered() {
    for (open, close) in [("[", "]"), ("{ a = ", " }"), ("a.", "")] {
        let text = format!("version = {}1{}", open.repeat(20_000), close.repeat(20_000));
        let key = format!("{}b = 1", open.repeat(20_000));
        for text in [text, key] {
            let outcome = policy::load("deep.toml", &text, &NoHost);
            assert!(outcome.resolved.is_none(), "{open} was taken");
        }
    }
}
