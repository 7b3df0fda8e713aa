//! What `packvault --version` says: the version, the commit it was built from, and for which kind of machine.

/// The version, then the commit where the build knew it, then the target.
pub const TEXT: &str = env!("PACKVAULT_VERSION");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_names_the_kind_of_machine() {
        assert!(TEXT.starts_with(env!("CARGO_PKG_VERSION")) && TEXT.contains("linux"), "{TEXT}");
    }
}
