# Everyday commands. `just` lists them.

_list:
    @just --list --unsorted

# Run every check that CI runs
check:
    .ci/run

# Run the tests
test *arguments:
    cargo test --locked --workspace {{ arguments }}

# See packvault at work on an archive it invents
demo *arguments:
    cargo run --release -- demo {{ arguments }}

# Measure the commands beside their unavoidable parts (see `just bench --help`)
bench *arguments:
    cargo bench --bench commands -- {{ arguments }}

# Measure packvault beside restic, rustic, Borg and Kopia, those of them that are installed
peers *arguments:
    cargo bench --bench peers -- {{ arguments }}

# Make the files of a release: a Debian package, an archive, their checksums
release *arguments:
    packaging/release {{ arguments }}

# Use packvault for a long time beside a live application, under faults (see `just soak --help`)
soak *arguments:
    cargo build --release
    cargo run --release -p packvault-soak -- soak {{ arguments }}

# Format all code
fmt:
    cargo fmt --all

# Draw docs/demo.svg anew from the demo's output
picture:
    cargo run --release -- demo | cargo run --release --example picture > docs/demo.svg
