//! A directory is made whole and loaded only as it was made.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::thread;

use super::*;
use crate::fixture::{EPOCH, SEED, authority, keys};

const NOW: Duration = Duration::from_secs(1_767_225_600 + 200 * 86_400);

/// A test root with the keys that everybody has.
struct Made {
    dir: tempfile::TempDir,
}

impl Made {
    fn new(model: Model) -> Made {
        let made = Made { dir: tempfile::tempdir().unwrap() };
        TestRoot::create(&made.path(), authority(model), SEED).unwrap();
        made
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn load(&self) -> Result<TestRoot, TestRootError> {
        TestRoot::load_at(&self.path(), NOW)
    }

    /// What is said of it, without the path in front.
    fn error(&self) -> String {
        self.load().unwrap_err().to_string().replace(self.path().to_str().unwrap(), "ROOT")
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.file(name)).unwrap();
        change(&mut bytes);
        fs::write(self.file(name), bytes).unwrap();
    }

    fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.file(name), Permissions::from_mode(mode)).unwrap();
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

const PRIVATE: [&str; 4] = [KEYS[0], KEYS[1], KEYS[2], CHIP_KEY];
const PUBLIC: [&str; 3] = [ABOUT, ANCHOR, CERTIFICATES];

#[test]
fn what_was_made_is_what_is_loaded() {
    for model in Model::ALL {
        let made = Made::new(model);
        let root = made.load().unwrap();
        assert_eq!((root.model(), root.tcb()), (model, Tcb::usual(model)));
        assert_eq!((root.chip_id(), root.not_before()), (SEED.chip_id(model), EPOCH));
        assert_eq!(root.anchor(), authority(model).ark().unwrap());
        assert_eq!(fs::read(made.file(ANCHOR)).unwrap(), root.anchor());
        assert_eq!(fs::read(made.file(CERTIFICATES)).unwrap(), root.certificates());
        assert_eq!(root.authority().ark().unwrap(), root.anchor());
        assert!(root.not_after() < root.authority().not_after());
        assert_eq!(mode(&made.path()), 0o700);
        assert!(PRIVATE.iter().all(|name| mode(&made.file(name)) == 0o600));
        assert_eq!(fs::read_dir(made.path()).unwrap().count(), PRIVATE.len() + PUBLIC.len());
        assert_eq!(fs::read_dir(made.dir.path()).unwrap().count(), 1, "nothing is left beside it");
        let about = fs::read_to_string(made.file(ABOUT)).unwrap();
        assert!(about.contains("\nlabel = \"software-test\"\n") && about.contains("software, not hardware"), "{about}");
    }
}

/// no-silent-trust: what is there is not written over, whatever it is.
#[test]
fn no_silent_trust_nothing_is_written_over() {
    let made = Made::new(Model::Genoa);
    let before = fs::read(made.file(ABOUT)).unwrap();
    let again = || TestRoot::create(&made.path(), authority(Model::Milan), SEED).unwrap_err();
    assert!(matches!(again(), TestRootError::Exists(_)));
    assert_eq!(fs::read(made.file(ABOUT)).unwrap(), before);
    let dir = made.dir.path();
    symlink("nowhere", dir.join("link")).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    for name in ["link", "file", "empty"] {
        let error = TestRoot::init(&dir.join(name), Model::Genoa, |_| unreachable!()).unwrap_err().to_string();
        assert!(error.contains("is there already, and nothing is written over"), "{error}");
    }
    let error = TestRoot::init(&dir.join("no/root"), Model::Genoa, |_| unreachable!()).unwrap_err().to_string();
    assert!(error.ends_with("cannot be written: the directory that it goes into does not exist"), "{error}");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 4, "no refusal leaves anything");
}

/// no-silent-trust: keys that others may have read are not used.
#[test]
fn no_silent_trust_private_files_are_private() {
    let made = Made::new(Model::Genoa);
    let (readable, writable) = ([0o040, 0o004], [0o020, 0o002]);
    let files = PRIVATE.into_iter().flat_map(|name| readable.into_iter().chain(writable).map(move |open| (name, open)));
    // Who may only look into the directory has nothing of these; who can put files there has.
    for (name, open) in files.chain(writable.map(|open| (".", open))) {
        let kept = mode(&made.file(name));
        made.chmod(name, kept | open);
        let error = made.error();
        let words = format!("has mode {:04o}: others than its owner have rights to it", kept | open);
        assert!(error.contains(&words) && error.contains("; chmod go= ROOT"), "{name}: {error}");
        made.chmod(name, kept);
    }
    for name in PUBLIC {
        made.chmod(name, 0o666);
    }
    made.chmod(".", 0o755);
    made.load().unwrap();
}

/// no-silent-trust: no byte of any file can be changed.
#[test]
fn no_silent_trust_damaged_files() {
    let made = Made::new(Model::Turin);
    for name in PRIVATE.into_iter().chain(PUBLIC) {
        let whole = fs::read(made.file(name)).unwrap();
        let comments = if name == ABOUT { whole.windows(2).position(|two| two == b"\n\n").unwrap() + 2 } else { 0 };
        for part in [0, 1, 5, 9, 10] {
            let at = comments + (whole.len() - 2 - comments) * part / 10;
            made.change(name, |bytes| bytes[at] ^= 1);
            assert!(made.load().is_err(), "{name} {at}");
            fs::write(made.file(name), &whole).unwrap();
        }
        made.change(name, |bytes| bytes.truncate(whole.len() - 1));
        let comment = name == ABOUT;
        assert_eq!(made.load().is_ok(), comment, "{name}: the last line feed of a text is nothing");
        fs::write(made.file(name), [&whole[..], b"\0"].concat()).unwrap();
        assert!(made.load().is_err(), "{name}");
        fs::write(made.file(name), vec![b' '; (1 << 16) + 1]).unwrap();
        assert!(made.error().ends_with("has more than 65536 bytes"), "{name}");
        fs::remove_file(made.file(name)).unwrap();
        assert!(made.error().starts_with(&format!("`ROOT/{name}` cannot be read: ")), "{name}");
        fs::create_dir(made.file(name)).unwrap();
        assert_eq!(made.error(), format!("`ROOT/{name}` is not a regular file"));
        fs::remove_dir(made.file(name)).unwrap();
        fs::write(made.file(name), &whole).unwrap();
        made.chmod(name, 0o600);
        made.load().unwrap();
    }
}

/// no-silent-trust: what belongs to another root is found, though it is whole.
#[test]
fn no_silent_trust_files_of_another_root() {
    let (made, other) = (Made::new(Model::Genoa), Made::new(Model::Milan));
    for name in PRIVATE.into_iter().chain(PUBLIC) {
        if name == CHIP_KEY {
            continue;
        }
        let own = fs::read(made.file(name)).unwrap();
        fs::copy(other.file(name), made.file(name)).unwrap();
        let error = made.error();
        assert!(error.contains("does not belong to the keys and the description in `ROOT`"), "{name}: {error}");
        fs::write(made.file(name), own).unwrap();
    }
    fs::write(made.file(CHIP_KEY), [7; 32]).unwrap();
    assert!(made.error().starts_with("`ROOT/root.toml` does not belong"), "another chip");
    fs::write(made.file(CHIP_KEY), [7; 31]).unwrap();
    assert_eq!(made.error(), "`ROOT/chip.key` has 31 bytes, not 32");
}

/// no-silent-trust: a description says what it is, and nothing that is not known.
#[test]
fn no_silent_trust_descriptions() {
    let made = Made::new(Model::Genoa);
    let whole = fs::read_to_string(made.file(ABOUT)).unwrap();
    for (from, to, words) in [
        ("software-test", "hardware", "label"),
        ("version = 1", "version = 2", "version 2 is not known; there is 1"),
        ("genoa", "venice", "product"),
        ("genoa", "milan", "does not belong"),
        ("2026-01-01T00:00:00Z", "2026-01-01", "is no moment; write it like 2026-11-22T00:00:00Z"),
        ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "does not belong"),
        ("2032-", "2042-", "does not belong"),
        ("snp = 23", "snp = 24", "does not belong"),
        ("snp = 23", "snp = 256", "snp"),
        ("snp = 23", "snp = 23\nsvn = 1", "svn"),
        ("[tcb]", "more = 1\n[tcb]", "more"),
    ] {
        assert!(whole.contains(from), "{from}: {whole}");
        fs::write(made.file(ABOUT), whole.replace(from, to)).unwrap();
        assert!(made.error().contains(words), "{to}: {}", made.error());
    }
    fs::write(made.file(ABOUT), b"\xff").unwrap();
    assert!(made.error().contains("utf-8"), "{}", made.error());
}

#[test]
fn keys_have_to_be_these_keys() {
    let made = Made::new(Model::Genoa);
    // The numbers that follow from the others are written, too, and nobody reads them but other programs.
    made.change(KEYS[1], |key| {
        let last = key.len() - 1;
        key[last] ^= 1;
    });
    assert_eq!(made.error(), "`ROOT/ask.key` was changed: it is not the key as it was written");
    fs::write(made.file(KEYS[1]), b"no key").unwrap();
    assert!(made.error().starts_with("`ROOT`: the ASK's key is no RSA key of 4096 bits in PKCS #8: "));
    // Of the right product, and in the wrong place.
    let [_, _, asvk] = keys(Model::Genoa);
    fs::write(made.file(KEYS[1]), asvk).unwrap();
    assert!(made.error().starts_with("`ROOT/root.toml` does not belong"), "{}", made.error());
}

/// no-silent-trust: a root that does not hold yet, or any more, signs nothing.
#[test]
fn no_silent_trust_dates() {
    let made = Made::new(Model::Genoa);
    let root = made.load().unwrap();
    let at = |now: Duration| TestRoot::load_at(&made.path(), now);
    let second = Duration::from_secs(1);
    for good in [root.not_before(), root.not_after()] {
        at(good).unwrap();
    }
    for bad in [root.not_before() - second, root.not_after() + second] {
        assert!(matches!(at(bad), Err(TestRootError::Validity { .. })));
    }
    let error = at(Duration::from_secs(4_000_000_000)).unwrap_err().to_string();
    assert!(
        error.ends_with("holds from 2026-01-01T00:00:00Z to 2032-12-30T00:00:00Z; now is 2096-10-02T07:06:40Z"),
        "{error}"
    );
}

#[test]
fn no_directory_is_no_root() {
    let dir = tempfile::tempdir().unwrap();
    let error = |name| TestRoot::load(&dir.path().join(name)).unwrap_err().to_string();
    assert!(error("absent").contains("absent` cannot be read: "));
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(error("file").ends_with("file` is not a directory"));
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    let empty = error(".");
    assert!(empty.contains("root.toml` cannot be read: "), "{empty}");
}

#[test]
fn threads_share_a_root_and_it_signs_the_same_for_all() {
    let root = Arc::new(Made::new(Model::Genoa).load().unwrap());
    let statement = Statement { report_data: [0xda; 64], ..Statement::new([0x11; 48]) };
    let report = root.sign(&statement);
    let threads = [(); 4].map(|()| {
        let (root, statement) = (Arc::clone(&root), statement.clone());
        thread::spawn(move || root.sign(&statement))
    });
    for thread in threads {
        assert_eq!(thread.join().unwrap(), report);
    }
    let other = Statement { host_data: [1; 32], ..statement.clone() };
    assert_ne!(root.sign(&other)[0x140..0x160], report[0x140..0x160], "another guest");
    let later = Statement { report_data: [0; 64], ..statement.clone() };
    assert_eq!(root.sign(&later)[0x140..0x160], report[0x140..0x160], "the same guest");
    let drawn = Statement { report_id: Some([9; 32]), ..statement };
    assert_eq!(root.sign(&drawn)[0x140..0x160], [9; 32]);
}
