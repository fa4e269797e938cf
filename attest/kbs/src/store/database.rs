//! The database in its file, and its being opened anew.
//!
//! Owns that one failure is not for ever: after a write that failed redb refuses everything until it is opened again, so a
//! disk that was full for a moment would end a service that runs for months. Does not own what is in it.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redb::Database;

/// Between attempts.
const PAUSE: Duration = Duration::from_secs(1);

type Open = Box<dyn Fn() -> Result<Database, redb::Error> + Send + Sync>;

/// A database, as long as it can be used.
pub(super) struct Kept {
    open: Open,
    database: RwLock<Option<Arc<Database>>>,
    tried: Mutex<Option<Instant>>,
}

impl Kept {
    /// Opened in this way, now and whenever it must be again.
    pub(super) fn new(
        open: impl Fn() -> Result<Database, redb::Error> + Send + Sync + 'static,
    ) -> Result<Self, redb::Error> {
        let database = RwLock::new(Some(Arc::new(open()?)));
        Ok(Self { open: Box::new(open), database, tried: Mutex::new(None) })
    }

    /// The database, if it is open.
    pub(super) fn get(&self) -> Option<Arc<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The database, opened if it is not: at most once in [`PAUSE`].
    pub(super) fn get_or_open(&self) -> Result<Arc<Database>, redb::Error> {
        if let Some(database) = self.get() {
            return Ok(database);
        }
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.is_some_and(|tried| tried.elapsed() < PAUSE) {
            return Err(redb::Error::PreviousIo);
        }
        *tried = Some(Instant::now());
        let database = Arc::new((self.open)()?);
        tracing::warn!("sessions can be stored again");
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = Some(database.clone());
        Ok(database)
    }

    /// Lets go of a database that failed. Whoever still reads in it keeps its file locked until he is through.
    pub(super) fn close(&self) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
