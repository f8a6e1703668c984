//! The fuzz targets over their corpus, in every run of `cargo test`.

use std::path::Path;

/// What is done with an input.
type Target = fn(&[u8]);

/// A target and where its corpus is.
const TARGETS: [(&str, Target); 5] = [
    ("head", super::head),
    ("username", super::username),
    ("users_file", super::users_file),
    ("accounts_file", super::accounts_file),
    ("server_list", super::server_list),
];

/// What fuzzing has found, and what it starts from, hold in every test run.
#[test]
fn the_corpus_holds() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    for (name, target) in TARGETS {
        let files: Vec<_> = std::fs::read_dir(fuzz.join("corpus").join(name)).unwrap().collect();
        assert!(files.len() >= 3, "{name}");
        for file in files {
            let path = file.unwrap().path();
            // Named where one fails.
            println!("{}", path.display());
            target(&std::fs::read(path).unwrap());
        }
        assert!(fuzz.join(format!("fuzz_targets/{name}.rs")).exists(), "{name} has its target");
    }
    let targets = std::fs::read_dir(fuzz.join("fuzz_targets")).unwrap().count();
    assert_eq!(targets, TARGETS.len(), "every target is listed here");
}

proptest::proptest! {
    #[test]
    fn any_bytes_hold(data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        for (_, target) in TARGETS {
            target(&data);
        }
    }
}
