//! Writes the seeds of every target into `fuzz/corpus/`, where fuzzing begins and keeps what it finds.

#![allow(clippy::print_stdout, reason = "it says what it has written")]

use std::path::Path;

use packvault::format::BlobId;
use packvault_fuzz::TARGETS;
use packvault_fuzz::seeds::Seeds;

fn main() -> std::io::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let seeds = Seeds::collect(&here.join("../tests/fixtures"));
    for target in TARGETS.iter().map(|(name, _)| *name).chain(["settings"]) {
        let corpus = here.join("corpus").join(target);
        std::fs::create_dir_all(&corpus)?;
        for seed in seeds.of(target) {
            std::fs::write(corpus.join(BlobId::of(seed).to_string()), seed)?;
        }
        println!("{target}: {} seeds", seeds.of(target).len());
    }
    Ok(())
}
