//! A directory is made whole and loaded only as it was made.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::*;
use crate::fixture::EPOCH;
use crate::root::AnyRoot;
use crate::tdx::collateral::FILES;
use crate::{Statement as Report, TestRoot};

const NOW: Duration = Duration::from_secs(1_767_225_600 + 200 * 86_400);

struct Made {
    dir: tempfile::TempDir,
}

impl Made {
    fn new(seed: u8) -> Made {
        let made = Made { dir: tempfile::tempdir().unwrap() };
        TdxRoot::create(&made.path(), Seed([seed; 32]), EPOCH).unwrap();
        made
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn load(&self) -> Result<TdxRoot, TestRootError> {
        TdxRoot::load_at(&self.path(), NOW)
    }

    fn error(&self) -> String {
        self.load().unwrap_err().to_string().replace(self.path().to_str().unwrap(), "ROOT")
    }
}

fn public() -> impl Iterator<Item = String> {
    [ABOUT, ANCHOR].map(str::to_owned).into_iter().chain(FILES.map(|name| format!("{COLLATERAL}/{name}")))
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn what_was_made_is_what_is_loaded() {
    let made = Made::new(0x7d);
    let root = made.load().unwrap();
    assert_eq!(fs::read(made.file(ANCHOR)).unwrap(), root.anchor());
    for (name, part) in root.collateral().parts() {
        assert_eq!(fs::read(made.file(COLLATERAL).join(name)).unwrap(), part);
    }
    assert_eq!((mode(&made.path()), mode(&made.file(KEY))), (0o700, 0o600));
    assert_eq!(fs::read_dir(made.path()).unwrap().count(), 4);
    assert_eq!(fs::read_dir(made.dir.path()).unwrap().count(), 1, "nothing is left beside it");
    let about = fs::read_to_string(made.file(ABOUT)).unwrap();
    assert!(about.contains("\nlabel = \"software-test\"\n") && about.contains("software, not hardware"), "{about}");
    let statement = Statement::new([7; 48]);
    assert_eq!(root.sign(&statement), made.load().unwrap().sign(&statement), "the same every time");
    assert!(matches!(AnyRoot::load(&made.path()), Ok(AnyRoot::Tdx(_))));
}

/// no-silent-trust: a seed that others may have read is not used, and no byte of any file can be changed.
#[test]
fn no_silent_trust_private_and_damaged_files() {
    let made = Made::new(0x7d);
    for (name, open) in [(KEY, 0o640), (KEY, 0o604), (KEY, 0o602), (".", 0o720), (".", 0o702)] {
        let kept = mode(&made.file(name));
        fs::set_permissions(made.file(name), Permissions::from_mode(open)).unwrap();
        assert!(made.error().contains(&format!("has mode {open:04o}: others than its owner have rights to it")));
        fs::set_permissions(made.file(name), Permissions::from_mode(kept)).unwrap();
    }
    for name in public().chain([KEY.to_owned()]) {
        let whole = fs::read(made.file(&name)).unwrap();
        let comments = if name == ABOUT { whole.windows(2).position(|two| two == b"\n\n").unwrap() + 2 } else { 0 };
        for part in [0, 3, 7, 10] {
            let mut changed = whole.clone();
            changed[comments + (whole.len() - 2 - comments) * part / 10] ^= 1;
            fs::write(made.file(&name), changed).unwrap();
            assert!(made.load().is_err(), "{name} {part}");
        }
        fs::write(made.file(&name), [&whole[..], b"\0"].concat()).unwrap();
        assert!(made.load().is_err(), "{name}");
        fs::remove_file(made.file(&name)).unwrap();
        assert!(made.error().starts_with(&format!("`ROOT/{name}` cannot be read: ")), "{}", made.error());
        fs::write(made.file(&name), &whole).unwrap();
        fs::set_permissions(made.file(&name), Permissions::from_mode(0o600)).unwrap();
        made.load().unwrap();
    }
}

/// no-silent-trust: what belongs to another root is found, though it is whole.
#[test]
fn no_silent_trust_files_of_another_root() {
    let (made, other) = (Made::new(0x7d), Made::new(0x7e));
    for name in public() {
        let own = fs::read(made.file(&name)).unwrap();
        fs::copy(other.file(&name), made.file(&name)).unwrap();
        let error = made.error();
        assert!(error.contains("does not belong to the keys and the description in `ROOT`"), "{name}: {error}");
        fs::write(made.file(&name), own).unwrap();
    }
    fs::copy(other.file(KEY), made.file(KEY)).unwrap();
    assert!(made.error().starts_with("`ROOT/root.toml` does not belong"), "{}", made.error());
}

/// no-silent-trust: a description says what it is, and nothing that is not known.
#[test]
fn no_silent_trust_descriptions() {
    let made = Made::new(0x7d);
    let whole = fs::read_to_string(made.file(ABOUT)).unwrap();
    for (from, to, words) in [
        ("software-test", "hardware", "label"),
        ("version = 1", "version = 2", "version 2 is not known; there is 1"),
        ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "does not belong"),
        ("2032-", "2042-", "does not belong"),
        ("qe = 8", "qe = 9", "does not belong"),
        ("[tcb]", "more = 1\n[tcb]", "more"),
    ] {
        assert!(whole.contains(from), "{from}: {whole}");
        fs::write(made.file(ABOUT), whole.replace(from, to)).unwrap();
        assert!(made.error().contains(words), "{to}: {}", made.error());
    }
}

/// no-silent-trust: a root that does not hold yet, or any more, signs nothing.
#[test]
fn no_silent_trust_dates() {
    let made = Made::new(0x7d);
    let Dates { from, to } = made.load().unwrap().dates();
    let at = |now: Duration| TdxRoot::load_at(&made.path(), now);
    let second = Duration::from_secs(1);
    for good in [from, to] {
        at(good).unwrap();
    }
    for bad in [from - second, to + second] {
        assert!(matches!(at(bad), Err(TestRootError::Validity { .. })));
    }
}

/// Who wants reports gets none of a root for quotes, and is told why.
#[test]
fn a_root_is_of_one_technology() {
    let made = Made::new(0x7d);
    let error = TestRoot::load_at(&made.path(), NOW).map(|root| root.sign(&Report::new([1; 48]))).unwrap_err();
    assert!(matches!(error, TestRootError::OtherKind { is: Kind::Tdx, wanted: Kind::Snp, .. }));
    assert!(error.to_string().ends_with("signs quotes of TDX guests, not reports of SNP guests"), "{error}");
    let about = fs::read_to_string(made.file(ABOUT)).unwrap();
    fs::write(made.file(ABOUT), about.replace("tee = \"tdx\"\n", "")).unwrap();
    assert!(made.error().ends_with("signs reports of SNP guests, not quotes of TDX guests"), "{}", made.error());
    assert!(matches!(TdxRoot::init(&made.path()), Err(TestRootError::Exists(_))), "nothing is written over");
}
