//! The long evidence runs, in their short form: reloads under load, and kills at any moment. `cargo xtask reloads` and
//! `cargo xtask kills` run the same for longer, and write what was found into docs/evidence.md.

mod support;

mod evidence {
    mod kills;
    mod measure;
    mod policies;
    mod reloads;
    mod scene;
}
