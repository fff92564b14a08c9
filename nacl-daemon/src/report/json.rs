//! Values → JSON for machines, in the shapes of the API.

use serde::Serialize;

use crate::service::api::Answer;

/// One object with its schema number, indented, and a newline.
pub fn pretty<T: Serialize>(body: &T) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(&Answer::new(body))? + "\n")
}
