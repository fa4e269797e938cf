use super::*;
use kbs_types::{HashAlgorithm, Tee};
use std::fs;
use std::future::Future;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::AtomicBool;

const TEN: Most = Most { sessions: 10, of_peer: 10 };

fn opened(directory: &Path, most: Most) -> Result<Store, StoreError> {
    Store::open(&StateDirectory::make(directory).unwrap(), most)
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::from_secs(seconds)
}

/// What everybody is asked, and who that is.
fn asked(nonce: &str) -> (Asked, IpAddr) {
    of(nonce, 1)
}

fn of(nonce: &str, peer: u8) -> (Asked, IpAddr) {
    let asked = Asked { nonce: nonce.into(), tee: Tee::Snp, algorithm: HashAlgorithm::Sha384 };
    (asked, Ipv4Addr::new(10, 0, 0, peer).into())
}

fn wait<T>(what: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(what)
}

/// no-silent-trust: a challenge is good once, in its time, for its session; after a restart as well.
#[test]
fn no_silent_trust_a_challenge_is_answered_once() {
    let dir = tempfile::tempdir().unwrap();
    let open = || opened(dir.path(), TEN).unwrap();
    let store = open();
    wait(async {
        for cookie in ["a", "b", "c", "d"] {
            store.begin(cookie, asked(&cookie.repeat(3)), at(100), at(0)).await.unwrap();
        }
        assert_eq!(store.take("x", "xxx", at(1)).await, Err(SessionError::Unknown));
        assert_eq!(store.take("a", "aaa", at(99)).await, Ok(asked("aaa").0));
        assert_eq!(store.take("a", "aaa", at(99)).await, Err(SessionError::Used));
        assert_eq!(store.take("b", "bbb", at(100)).await, Err(SessionError::Unknown), "it is over");
        assert_eq!(store.take("c", "ddd", at(1)).await, Err(SessionError::Nonce), "another's");
        assert_eq!(store.take("c", "ccc", at(1)).await, Err(SessionError::Used));
        assert_eq!(store.token("a", at(1)), Err(SessionError::NotAttested));
        assert_eq!(store.attested("d", "t", at(200), at(1)).await, Err(SessionError::Unknown), "nobody took it");
        store.attested("a", "token", at(200), at(1)).await.unwrap();
    });
    drop(store);
    let store = reopened(dir.path(), TEN);
    assert_eq!(store.live(), 4);
    assert_eq!((store.awaits("a", at(1)), store.awaits("d", at(1))), (Err(SessionError::Used), Ok(())));
    assert_eq!(store.awaits("d", at(100)), Err(SessionError::Unknown));
    assert_eq!(store.token("a", at(199)), Ok("token".into()));
    assert_eq!(store.token("a", at(200)), Err(SessionError::Unknown));
    wait(async {
        assert_eq!(store.take("a", "aaa", at(1)).await, Err(SessionError::Used));
        assert_eq!(store.take("c", "ccc", at(1)).await, Err(SessionError::Used));
    });
}

#[test]
fn there_are_so_many_sessions_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(dir.path(), Most { sessions: 3, of_peer: 3 }).unwrap();
    wait(async {
        for (cookie, expires) in [("a", 10), ("b", 20), ("c", 30)] {
            store.begin(cookie, asked("n"), at(expires), at(0)).await.unwrap();
        }
        assert_eq!(store.begin("d", asked("n"), at(30), at(9)).await, Err(SessionError::Full { most: 3 }));
        store.begin("d", asked("n"), at(30), at(10)).await.unwrap();
        assert_eq!(store.live(), 3);
    });
}

/// no-silent-trust: however much one address asks for, there is room for others.
#[test]
fn no_silent_trust_one_address_has_its_share() {
    let dir = tempfile::tempdir().unwrap();
    let most = Most { sessions: 8, of_peer: 2 };
    let greedy =
        |store: &Store, cookie: &'static str, expires, now| wait(store.begin(cookie, of("n", 1), at(expires), at(now)));
    let store = opened(dir.path(), most).unwrap();
    greedy(&store, "a", 10, 0).unwrap();
    greedy(&store, "b", 20, 0).unwrap();
    assert_eq!(greedy(&store, "c", 20, 0), Err(SessionError::Share { most: 2 }));
    wait(store.begin("d", of("n", 2), at(20), at(0))).unwrap();
    drop(store);
    let store = reopened(dir.path(), most);
    assert_eq!(greedy(&store, "e", 20, 1), Err(SessionError::Share { most: 2 }), "after a restart as well");
    greedy(&store, "f", 20, 10).unwrap();
    assert_eq!(store.live(), 3, "what was over has been cleared away");
    assert_eq!(greedy(&store, "g", 20, 11), Err(SessionError::Share { most: 2 }));
}

/// no-silent-trust: a challenge is good for its time, whatever the clock said when it was made.
#[test]
fn no_silent_trust_clocks_that_were_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(dir.path(), Most { sessions: 1, of_peer: 1 }).unwrap();
    wait(async {
        store.begin("a", asked("n"), at(1_000_060), at(1_000_000)).await.unwrap();
        assert_eq!(store.awaits("a", at(999_995)), Ok(()), "clocks are set by a little");
        assert_eq!(store.awaits("a", at(100)), Err(SessionError::Unknown));
        assert_eq!(store.take("a", "n", at(100)).await, Err(SessionError::Unknown));
        store.begin("b", asked("n"), at(160), at(100)).await.unwrap();
    });
    assert_eq!(store.live(), 1);
}

/// no-silent-trust: who could have written down what was asked could answer it with what he has.
#[test]
fn no_silent_trust_sessions_are_ours_alone() {
    let dir = tempfile::tempdir().unwrap();
    opened(dir.path(), TEN).unwrap();
    let path = dir.path().join(FILE);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    let error = opened(dir.path(), TEN).unwrap_err();
    assert!(matches!(error, StoreError::State(StateError::Mode { mode: 0o660, .. })), "{error}");
}

/// A disk that fails when it is told to.
#[derive(Debug)]
struct Disk(FileBackend, Arc<AtomicBool>);

impl Disk {
    fn works(&self) -> io::Result<()> {
        if self.1.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.works().and_then(|()| self.0.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.works().and_then(|()| self.0.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.works().and_then(|()| self.0.write(offset, data))
    }
}

/// Promise: a disk that was full for a moment ends nothing; while it is, nobody is told that all is well, and no challenge
/// is good twice.
#[test]
fn a_full_disk_is_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let is_full = Arc::new(AtomicBool::new(false));
    let (file, full) = (path.clone(), is_full.clone());
    let backend = move || {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file)?;
        Ok(Disk(FileBackend::new(file)?, full.clone()))
    };
    let store = Store::open_with(&path, TEN, backend).unwrap();
    wait(async {
        store.begin("a", asked("a"), at(100), at(0)).await.unwrap();
        store.take("a", "a", at(1)).await.unwrap();
        store.begin("b", asked("b"), at(100), at(0)).await.unwrap();
        assert_eq!(store.check(at(1)).await, Ok(()));

        is_full.store(true, Ordering::Relaxed);
        assert_eq!(store.take("b", "b", at(1)).await, Err(SessionError::Storage));
        assert_eq!(store.check(at(1)).await, Err(SessionError::Storage));
        assert_eq!(store.awaits("b", at(1)), Err(SessionError::Storage));

        is_full.store(false, Ordering::Relaxed);
        thread::sleep(std::time::Duration::from_millis(1100));
        assert_eq!(store.check(at(2)).await, Ok(()));
        assert_eq!(store.take("a", "a", at(2)).await, Err(SessionError::Used));
        assert_eq!(store.begin("c", asked("c"), at(100), at(2)).await, Ok(()));
        assert_eq!(store.take("c", "c", at(2)).await, Ok(asked("c").0));
    });
}

/// The thread of one that was dropped lets go of its file a moment later.
fn reopened(directory: &Path, most: Most) -> Store {
    let found = (0..500).find_map(|_| {
        thread::sleep(std::time::Duration::from_millis(10));
        opened(directory, most).ok()
    });
    found.unwrap()
}
