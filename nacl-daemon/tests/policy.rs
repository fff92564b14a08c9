//! The policy language, from the outside: every example loads, every broken example is told so exactly, what was
//! written is what is resolved, and no text makes the loader stumble.

mod policy {
    mod command;
    mod examples;
    mod groups;
    mod interfaces;
    mod invalid;
    mod properties;
    mod resolved;
}
