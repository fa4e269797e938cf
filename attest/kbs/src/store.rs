//! Sessions, on disk: what was asked of whom, and whether it was answered.
//!
//! Owns that a challenge is answered once: taking it is on disk before whoever took it hears of it, so that neither a
//! crash nor anything else lets it be taken again. One thread writes; what waits at the same time is written together.
//! Cookies themselves are not stored, only their hashes.
//!
//! What a process that is killed had not written is gone: such a session does not exist, and its guest begins anew.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use attest::UnixTime;
use kbs_types::{HashAlgorithm, Tee};
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

const FILE: &str = "sessions.redb";
const SESSIONS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("sessions");
const CACHE_BYTES: usize = 8 << 20;
/// What is written together at most.
const TOGETHER: usize = 256;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database in it.
    #[error("{path}: {source}")]
    Database {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// No thread.
    #[error("the thread that writes sessions: {0}")]
    Thread(io::Error),
}

/// Why nothing comes of a session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// No cookie leads to it, or it is over.
    #[error("there is no such session, or it is over")]
    Unknown,
    /// Its challenge was taken before.
    #[error("the session's challenge was answered before; each is good once")]
    Used,
    /// Another one's answer.
    #[error("the nonce is not the session's")]
    Nonce,
    /// Nobody was found good in it.
    #[error("the session has no token: nothing was attested in it")]
    NotAttested,
    /// No more can be open.
    #[error("there are {most} sessions already")]
    Full {
        /// What is allowed.
        most: u64,
    },
    /// The disk.
    #[error("sessions cannot be stored")]
    Storage,
}

/// What a guest was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// The number that must come back.
    pub nonce: String,
    /// The technology that it says it has.
    pub tee: Tee,
    /// How its evidence is bound.
    pub algorithm: HashAlgorithm,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Session {
    expires: u64,
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum State {
    Asked(Asked),
    Used,
    Attested { token: String },
}

enum Act {
    Begin(Asked, UnixTime),
    Take { nonce: String },
    Attested { token: String, expires: UnixTime },
}

struct Job {
    key: [u8; 32],
    now: UnixTime,
    act: Act,
    answer: oneshot::Sender<Result<Option<Asked>, SessionError>>,
}

/// Sessions.
#[derive(Clone, Debug)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
    database: Arc<Database>,
    live: Arc<AtomicU64>,
    most: u64,
}

impl Store {
    /// Those in this directory, of which at most so many are open at once.
    pub fn open(directory: &Path, most: u64) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|source| StoreError::File { path: path.clone(), source })?;
        let wrong = |source: redb::Error| StoreError::Database { path: path.clone(), source: Box::new(source) };
        let file = FileBackend::new(file).map_err(|error| wrong(error.into()))?;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(file)
            .map_err(|error| wrong(error.into()))?;
        let live = count(&database).map_err(wrong)?;
        let database = Arc::new(database);
        let (jobs, waiting) = mpsc::channel(4 * TOGETHER);
        let live = Arc::new(AtomicU64::new(live));
        let writer = Writer { database: database.clone(), live: live.clone(), most, swept: Cell::new(0) };
        thread::Builder::new()
            .name("sessions".into())
            .spawn(move || writer.run(waiting))
            .map_err(StoreError::Thread)?;
        Ok(Self { jobs, database, live, most })
    }

    /// Sessions that are open, or not yet cleared away.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// A new session, in which a guest was asked this, until then.
    pub async fn begin(
        &self,
        cookie: &str,
        asked: Asked,
        expires: UnixTime,
        now: UnixTime,
    ) -> Result<(), SessionError> {
        self.act(cookie, now, Act::Begin(asked, expires)).await.map(|_| ())
    }

    /// What the guest was asked that answers with this number. Nobody can ask for it again, whatever comes of the
    /// answer.
    pub async fn take(&self, cookie: &str, nonce: &str, now: UnixTime) -> Result<Asked, SessionError> {
        let taken = self.act(cookie, now, Act::Take { nonce: nonce.into() }).await?;
        taken.ok_or(SessionError::Storage)
    }

    /// Keeps the token of a guest that was found good, until then.
    pub async fn attested(
        &self,
        cookie: &str,
        token: &str,
        expires: UnixTime,
        now: UnixTime,
    ) -> Result<(), SessionError> {
        self.act(cookie, now, Act::Attested { token: token.into(), expires }).await.map(|_| ())
    }

    /// Whether a session waits for an answer. Only [`Store::take`] makes sure of it.
    pub fn awaits(&self, cookie: &str, now: UnixTime) -> Result<(), SessionError> {
        let session = self.read(&key(cookie)).map_err(|error| storage(&error))?;
        match session.filter(|it| now.as_secs() < it.expires) {
            None => Err(SessionError::Unknown),
            Some(Session { state: State::Asked(_), .. }) => Ok(()),
            Some(_) => Err(SessionError::Used),
        }
    }

    /// The token of a session.
    pub fn token(&self, cookie: &str, now: UnixTime) -> Result<String, SessionError> {
        let session = self.read(&key(cookie)).map_err(|error| storage(&error))?;
        match session.filter(|it| now.as_secs() < it.expires) {
            None => Err(SessionError::Unknown),
            Some(Session { state: State::Attested { token }, .. }) => Ok(token),
            Some(_) => Err(SessionError::NotAttested),
        }
    }

    fn read(&self, key: &[u8; 32]) -> Result<Option<Session>, redb::Error> {
        let table = self.database.begin_read()?.open_table(SESSIONS)?;
        Ok(table.get(key)?.and_then(|it| serde_json::from_slice(it.value()).ok()))
    }

    async fn act(&self, cookie: &str, now: UnixTime, act: Act) -> Result<Option<Asked>, SessionError> {
        let (answer, answered) = oneshot::channel();
        let job = Job { key: key(cookie), now, act, answer };
        self.jobs.send(job).await.map_err(|_| SessionError::Storage)?;
        answered.await.unwrap_or(Err(SessionError::Storage))
    }

    /// How many may be open.
    #[must_use]
    pub const fn most(&self) -> u64 {
        self.most
    }
}

/// The one thread that writes.
struct Writer {
    database: Arc<Database>,
    live: Arc<AtomicU64>,
    most: u64,
    /// When sessions that were over were last cleared away: not more than once a second, however many want to begin.
    swept: Cell<u64>,
}

impl Writer {
    fn run(self, mut waiting: mpsc::Receiver<Job>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut jobs = vec![first];
            while jobs.len() < TOGETHER
                && let Ok(job) = waiting.try_recv()
            {
                jobs.push(job);
            }
            match self.write(&jobs) {
                Ok(answers) => {
                    for (job, answer) in jobs.into_iter().zip(answers) {
                        // Who has gone away does not want it.
                        let _ = job.answer.send(answer);
                    }
                }
                Err(error) => {
                    let answer = storage(&error);
                    for job in jobs {
                        let _ = job.answer.send(Err(answer.clone()));
                    }
                }
            }
        }
    }

    /// All of it is on disk when this returns, or none of it.
    fn write(&self, jobs: &[Job]) -> Result<Vec<Result<Option<Asked>, SessionError>>, redb::Error> {
        let transaction = self.database.begin_write()?;
        let mut answers = Vec::with_capacity(jobs.len());
        let live;
        {
            let mut table = transaction.open_table(SESSIONS)?;
            for job in jobs {
                answers.push(self.act(&mut table, job)?);
            }
            live = table.len()?;
        }
        transaction.commit()?;
        self.live.store(live, Ordering::Relaxed);
        Ok(answers)
    }

    fn act(&self, table: &mut Sessions<'_>, job: &Job) -> Result<Result<Option<Asked>, SessionError>, redb::Error> {
        let now = job.now.as_secs();
        match &job.act {
            Act::Begin(asked, expires) => {
                if table.len()? >= self.most && self.swept.replace(now) != now {
                    table.retain(|_, session| expiry(session) > now)?;
                }
                if table.len()? >= self.most {
                    return Ok(Err(SessionError::Full { most: self.most }));
                }
                put(table, &job.key, *expires, State::Asked(asked.clone()))?;
                Ok(Ok(None))
            }
            Act::Take { nonce } => {
                let found = get(table, &job.key)?.filter(|session| now < session.expires);
                let Some(session) = found else { return Ok(Err(SessionError::Unknown)) };
                let State::Asked(asked) = session.state else { return Ok(Err(SessionError::Used)) };
                put(table, &job.key, UnixTime::from_secs(session.expires), State::Used)?;
                Ok(if asked.nonce == *nonce { Ok(Some(asked)) } else { Err(SessionError::Nonce) })
            }
            Act::Attested { token, expires } => {
                if !matches!(get(table, &job.key)?, Some(Session { state: State::Used, .. })) {
                    return Ok(Err(SessionError::Unknown));
                }
                put(table, &job.key, *expires, State::Attested { token: token.clone() })?;
                Ok(Ok(None))
            }
        }
    }
}

type Sessions<'a> = Table<'a, &'static [u8; 32], &'static [u8]>;

fn get(table: &Sessions<'_>, key: &[u8; 32]) -> Result<Option<Session>, redb::Error> {
    Ok(table.get(key)?.and_then(|it| serde_json::from_slice(it.value()).ok()))
}

fn put(table: &mut Sessions<'_>, key: &[u8; 32], expires: UnixTime, state: State) -> Result<(), redb::Error> {
    let session = Session { expires: expires.as_secs(), state };
    let bytes = serde_json::to_vec(&session).map_err(|error| redb::Error::Io(error.into()))?;
    table.insert(key, &bytes[..])?;
    Ok(())
}

/// What cannot be read is over.
fn expiry(session: &[u8]) -> u64 {
    serde_json::from_slice::<Session>(session).map_or(0, |session| session.expires)
}

fn count(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let live = transaction.open_table(SESSIONS)?.len()?;
    transaction.commit()?;
    Ok(live)
}

fn key(cookie: &str) -> [u8; 32] {
    Sha256::digest(cookie).into()
}

fn storage(error: &redb::Error) -> SessionError {
    tracing::error!(%error, "sessions cannot be stored");
    SessionError::Storage
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::from_secs(seconds)
    }

    fn asked(nonce: &str) -> Asked {
        Asked { nonce: nonce.into(), tee: Tee::Snp, algorithm: HashAlgorithm::Sha384 }
    }

    fn wait<T>(what: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(what)
    }

    /// no-silent-trust: a challenge is good once, in its time, for its session; after a restart as well.
    #[test]
    fn no_silent_trust_a_challenge_is_answered_once() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path(), 10).unwrap();
        let store = open();
        wait(async {
            for cookie in ["a", "b", "c", "d"] {
                store.begin(cookie, asked(&cookie.repeat(3)), at(100), at(0)).await.unwrap();
            }
            assert_eq!(store.take("x", "xxx", at(1)).await, Err(SessionError::Unknown));
            assert_eq!(store.take("a", "aaa", at(99)).await, Ok(asked("aaa")));
            assert_eq!(store.take("a", "aaa", at(99)).await, Err(SessionError::Used));
            assert_eq!(store.take("b", "bbb", at(100)).await, Err(SessionError::Unknown), "it is over");
            assert_eq!(store.take("c", "ddd", at(1)).await, Err(SessionError::Nonce), "another's");
            assert_eq!(store.take("c", "ccc", at(1)).await, Err(SessionError::Used));
            assert_eq!(store.token("a", at(1)), Err(SessionError::NotAttested));
            assert_eq!(store.attested("d", "t", at(200), at(1)).await, Err(SessionError::Unknown), "nobody took it");
            store.attested("a", "token", at(200), at(1)).await.unwrap();
        });
        drop(store);
        // The thread lets go of the file a moment later.
        let store = (0..500)
            .find_map(|_| {
                thread::sleep(std::time::Duration::from_millis(10));
                Store::open(dir.path(), 10).ok()
            })
            .unwrap();
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
        let store = Store::open(dir.path(), 3).unwrap();
        wait(async {
            for (cookie, expires) in [("a", 10), ("b", 20), ("c", 30)] {
                store.begin(cookie, asked("n"), at(expires), at(0)).await.unwrap();
            }
            assert_eq!(store.begin("d", asked("n"), at(30), at(9)).await, Err(SessionError::Full { most: 3 }));
            store.begin("d", asked("n"), at(30), at(10)).await.unwrap();
            assert_eq!(store.live(), 3);
        });
    }
}
