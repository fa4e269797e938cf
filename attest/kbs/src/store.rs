//! Sessions, on disk: what was asked of whom, and whether it was answered.
//!
//! Owns that a challenge is answered once: taking it is on disk before whoever took it hears of it, so that neither a
//! crash nor anything else lets it be taken again. One thread writes; what waits at the same time is written together.
//! Cookies themselves are not stored, only their hashes.
//!
//! What a process that is killed had not written is gone: such a session does not exist, and its guest begins anew.

mod database;
mod session;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use attest::UnixTime;
use base64ct::{Base64UrlUnpadded, Encoding as _};
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend, Table, TableDefinition};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use crate::protocol::random;
use crate::state::{StateDirectory, StateError};
use database::Kept;
pub use session::Asked;
use session::{Session, State};

const FILE: &str = "sessions.redb";
const SESSIONS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("sessions");
const COOKIE_BYTES: usize = 32;
const CACHE_BYTES: usize = 8 << 20;
/// What is written together at most.
const TOGETHER: usize = 256;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file: there is none, or it is not ours alone.
    #[error(transparent)]
    State(#[from] StateError),
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
    /// No more can be open of one address.
    #[error("there are {most} sessions of this address already")]
    Share {
        /// What is allowed.
        most: u64,
    },
    /// The disk.
    #[error("sessions cannot be stored")]
    Storage,
}

enum Act {
    Begin {
        asked: Asked,
        peer: IpAddr,
        expires: UnixTime,
    },
    Take {
        nonce: String,
    },
    Attested {
        token: String,
        expires: UnixTime,
    },
    /// Looks whether anything can be done.
    Nothing,
}

struct Job {
    key: [u8; 32],
    now: UnixTime,
    act: Act,
    answer: oneshot::Sender<Result<Option<Asked>, SessionError>>,
}

/// How many sessions there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// In all.
    pub sessions: u64,
    /// Of one address.
    pub of_peer: u64,
}

/// Sessions.
#[derive(Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
    kept: Arc<Kept>,
    live: Arc<AtomicU64>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("live", &self.live).finish_non_exhaustive()
    }
}

impl Store {
    /// Those in this directory, of which at most so many are open at once.
    pub fn open(directory: &StateDirectory, most: Most) -> Result<Self, StoreError> {
        // What is wrong with the file is said as such, once. Who could have put it there knows what was asked in it.
        drop(directory.database(FILE)?);
        let path = directory.path_of(FILE);
        let directory = directory.clone();
        let file = move || directory.database(FILE).map_err(io::Error::other);
        Self::open_with(&path, most, move || Ok(FileBackend::new(file()?)?))
    }

    fn open_with<B: StorageBackend>(
        path: &Path,
        most: Most,
        backend: impl Fn() -> Result<B, redb::Error> + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let wrong = |source: redb::Error| StoreError::Database { path: path.into(), source: Box::new(source) };
        let open = move || Ok(Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend()?)?);
        let kept = Arc::new(Kept::new(open).map_err(wrong)?);
        let shares = kept.get_or_open().and_then(|database| shares(&database)).map_err(wrong)?;
        let live = Arc::new(AtomicU64::new(shares.values().sum()));
        let (jobs, waiting) = mpsc::channel(4 * TOGETHER);
        let writer =
            Writer { kept: kept.clone(), live: live.clone(), most, shares: Some(shares).into(), swept: Cell::new(0) };
        thread::Builder::new()
            .name("sessions".into())
            .spawn(move || writer.run(waiting))
            .map_err(StoreError::Thread)?;
        Ok(Self { jobs, kept, live })
    }

    /// Whether anything can be stored. After a failure it is tried.
    pub async fn check(&self, now: UnixTime) -> Result<(), SessionError> {
        match self.kept.get() {
            Some(_) if !self.jobs.is_closed() => Ok(()),
            _ => self.act("", now, Act::Nothing).await.map(|_| ()),
        }
    }

    /// Sessions that are open, or not yet cleared away.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// A new session, in which a guest at this address was asked this, until then.
    pub async fn begin(
        &self,
        cookie: &str,
        (asked, peer): (Asked, IpAddr),
        expires: UnixTime,
        now: UnixTime,
    ) -> Result<(), SessionError> {
        self.act(cookie, now, Act::Begin { asked, peer, expires }).await.map(|_| ())
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
        match self.read(&key(cookie))?.filter(|it| it.is_live(now)) {
            None => Err(SessionError::Unknown),
            Some(Session { state: State::Asked(_), .. }) => Ok(()),
            Some(_) => Err(SessionError::Used),
        }
    }

    /// The token of a session.
    pub fn token(&self, cookie: &str, now: UnixTime) -> Result<String, SessionError> {
        match self.read(&key(cookie))?.filter(|it| it.is_live(now)) {
            None => Err(SessionError::Unknown),
            Some(Session { state: State::Attested { token }, .. }) => Ok(token),
            Some(_) => Err(SessionError::NotAttested),
        }
    }

    fn read(&self, key: &[u8; 32]) -> Result<Option<Session>, SessionError> {
        let database = self.kept.get().ok_or(SessionError::Storage)?;
        let read = || -> Result<_, redb::Error> {
            let table = database.begin_read()?.open_table(SESSIONS)?;
            Ok(table.get(key)?.and_then(|it| Session::read(it.value())))
        };
        read().map_err(|error| storage(&error))
    }

    async fn act(&self, cookie: &str, now: UnixTime, act: Act) -> Result<Option<Asked>, SessionError> {
        let (answer, answered) = oneshot::channel();
        let job = Job { key: key(cookie), now, act, answer };
        self.jobs.send(job).await.map_err(|_| SessionError::Storage)?;
        answered.await.unwrap_or(Err(SessionError::Storage))
    }
}

/// The one thread that writes.
struct Writer {
    kept: Arc<Kept>,
    live: Arc<AtomicU64>,
    most: Most,
    /// How many of these each address has, unless that must be counted again.
    shares: RefCell<Option<Shares>>,
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
            let written = self.kept.get_or_open().and_then(|database| self.write(&database, &jobs));
            match written {
                Ok(answers) => {
                    for (job, answer) in jobs.into_iter().zip(answers) {
                        // Who has gone away does not want it.
                        let _ = job.answer.send(answer);
                    }
                }
                Err(error) => {
                    self.kept.close();
                    self.shares.replace(None);
                    let answer = storage(&error);
                    for job in jobs {
                        let _ = job.answer.send(Err(answer.clone()));
                    }
                }
            }
        }
    }

    /// All of it is on disk when this returns, or none of it.
    fn write(
        &self,
        database: &Database,
        jobs: &[Job],
    ) -> Result<Vec<Result<Option<Asked>, SessionError>>, redb::Error> {
        if self.shares.borrow().is_none() {
            self.shares.replace(Some(shares(database)?));
        }
        let transaction = database.begin_write()?;
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
        let Job { key, now, .. } = job;
        match &job.act {
            Act::Begin { asked, peer, expires } => {
                if let Err(full) = self.room(table, *peer, *now)? {
                    return Ok(Err(full));
                }
                put(table, key, &Session::begun(asked.clone(), *peer, *expires, *now))?;
                *self.shares.borrow_mut().get_or_insert_default().entry(Some(*peer)).or_default() += 1;
                Ok(Ok(None))
            }
            Act::Take { nonce } => {
                let found = get(table, key)?.filter(|session| session.is_live(*now));
                let Some(session) = found else { return Ok(Err(SessionError::Unknown)) };
                let State::Asked(asked) = session.state.clone() else { return Ok(Err(SessionError::Used)) };
                put(table, key, &session.used())?;
                Ok(if asked.nonce == *nonce { Ok(Some(asked)) } else { Err(SessionError::Nonce) })
            }
            Act::Attested { token, expires } => match get(table, key)? {
                Some(session) if matches!(session.state, State::Used) => {
                    put(table, key, &session.attested(token.clone(), *expires, *now))?;
                    Ok(Ok(None))
                }
                _ => Ok(Err(SessionError::Unknown)),
            },
            Act::Nothing => Ok(Ok(None)),
        }
    }

    /// Whether one more has room; what is over is cleared away if there is none.
    fn room(
        &self,
        table: &mut Sessions<'_>,
        peer: IpAddr,
        now: UnixTime,
    ) -> Result<Result<(), SessionError>, redb::Error> {
        let Most { sessions, of_peer } = self.most;
        let asked = |table: &Sessions<'_>| -> Result<_, redb::Error> {
            let has = self.shares.borrow().as_ref().and_then(|it| it.get(&Some(peer)).copied()).unwrap_or_default();
            Ok(if table.len()? >= sessions {
                Err(SessionError::Full { most: sessions })
            } else if has >= of_peer {
                Err(SessionError::Share { most: of_peer })
            } else {
                Ok(())
            })
        };
        if asked(table)?.is_err() && self.swept.replace(now.as_secs()) != now.as_secs() {
            let mut left = Shares::new();
            table.retain(|_, bytes| {
                // What cannot be read is over.
                let live = Session::read(bytes).filter(|session| session.is_live(now));
                live.inspect(|session| *left.entry(session.peer).or_default() += 1).is_some()
            })?;
            self.shares.replace(Some(left));
        }
        asked(table)
    }
}

type Sessions<'a> = Table<'a, &'static [u8; 32], &'static [u8]>;
type Shares = HashMap<Option<IpAddr>, u64>;

fn get(table: &Sessions<'_>, key: &[u8; 32]) -> Result<Option<Session>, redb::Error> {
    Ok(table.get(key)?.and_then(|it| Session::read(it.value())))
}

fn put(table: &mut Sessions<'_>, key: &[u8; 32], session: &Session) -> Result<(), redb::Error> {
    let bytes = serde_json::to_vec(session).map_err(|error| redb::Error::Io(error.into()))?;
    table.insert(key, &bytes[..])?;
    Ok(())
}

/// Whose sessions there are. The table is made if there is none.
fn shares(database: &Database) -> Result<Shares, redb::Error> {
    let transaction = database.begin_write()?;
    let mut shares = Shares::new();
    for entry in transaction.open_table(SESSIONS)?.iter()? {
        let (_, bytes) = entry?;
        let peer = Session::read(bytes.value()).and_then(|session| session.peer);
        *shares.entry(peer).or_default() += 1;
    }
    transaction.commit()?;
    Ok(shares)
}

fn key(cookie: &str) -> [u8; 32] {
    Sha256::digest(cookie).into()
}

/// What a session is called in the log: eight digits of the hash that the store knows it by. If this cookie is none of
/// ours, nothing: it could be somebody's secret of another kind, and one that can be guessed is found by its hash.
///
/// It gives nothing away. A cookie of ours is [`COOKIE_BYTES`] random bytes: of 2^256 that there can be, 2^224 have the same
/// mark, and whoever tries them has to ask the service about each. No hash leads back to what it is of.
pub(crate) fn mark(cookie: &str) -> Option<String> {
    let bytes = Base64UrlUnpadded::decode_vec(cookie).ok()?;
    let [a, b, c, d, ..] = key(cookie);
    (bytes.len() == COOKIE_BYTES).then(|| format!("{:08x}", u32::from_be_bytes([a, b, c, d])))
}

/// A cookie that nobody can guess.
pub(crate) fn new_cookie() -> io::Result<String> {
    Ok(Base64UrlUnpadded::encode_string(&random::<COOKIE_BYTES>()?))
}

fn storage(error: &redb::Error) -> SessionError {
    tracing::error!(%error, "sessions cannot be stored");
    SessionError::Storage
}

#[cfg(test)]
mod tests;
