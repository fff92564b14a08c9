//! What AWS has of a thing besides what it does: ids, tags, owners, descriptions. No verdict depends on any of it; it is kept
//! through import and export.

use std::{collections::BTreeMap, ops::Range};

use super::{
    Diagnostic, codes,
    tree::{Reader, Table, entries_of},
    written::{Account, Aws},
};

/// Reads those of the keys that a table knows. `id` is read by the caller: of an interface it has a form.
pub(super) fn read(reader: &mut Reader<'_>, table: &Table<'_>, id: Option<String>) -> Aws {
    Aws {
        id,
        name: text(reader, table, "name"),
        description: text(reader, table, "description"),
        owner: text(reader, table, "owner"),
        tags: tags(reader, table),
    }
}

/// A text that may be anything.
pub(super) fn text(reader: &mut Reader<'_>, table: &Table<'_>, key: &str) -> Option<String> {
    table.get(key)?.name(reader, key).map(str::to_owned)
}

/// `tags = { Name = "web" }`
pub(super) fn tags(reader: &mut Reader<'_>, table: &Table<'_>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let Some(value) = table.get("tags") else { return found };
    let Some(tags) = value.as_table() else {
        let message = format!("`tags` must be a table, not {}", value.kind());
        let diagnostic = Diagnostic::new(&codes::WRONG_TYPE, value.span(), message).at("expected { Name = \"web\" }");
        reader.push(diagnostic);
        return found;
    };
    for entry in entries_of(tags) {
        if let Some(text) = entry.value.name(reader, entry.key) {
            found.insert(entry.key.to_owned(), text.to_owned());
        }
    }
    found
}

/// `[aws]`
pub(super) fn account(reader: &mut Reader<'_>, top: &Table<'_>) -> Account {
    let Some(value) = top.get("aws") else { return Account::default() };
    let Some(table) = value.table(reader, "`[aws]`", &["account", "region"], &|_| None) else {
        return Account::default();
    };
    Account { account: text(reader, &table, "account"), region: text(reader, &table, "region") }
}

/// Where `external = true` stands: the table only names what another account has, or what no document told of. `content`: what
/// it then cannot say.
pub(super) fn external(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    what: &str,
    content: &[&str],
) -> Option<Range<usize>> {
    let entry = table.entry("external")?;
    let external = entry.value.boolean(reader, "external")?.then(|| entry.key_span.clone())?;
    for known in content.iter().filter_map(|key| table.entry(key)) {
        let message = format!("{what} is external, and has `{}`", known.key.escape_debug());
        reader.push(
            Diagnostic::new(&codes::EXTERNAL, known.key_span.clone(), message)
                .at("known after all?")
                .and(external.clone(), "only named, it says")
                .help("what is external has no content here: remove one of the two"),
        );
    }
    Some(external)
}
