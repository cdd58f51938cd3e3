//! The thread that owns the database. It takes commands one after the other, stores what they change in one transaction each, and only
//! then makes it visible.

use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::error::Error;
use super::history::Happened;
use super::object::{Kind, Object, Stored};
use super::plan::Plan;
use super::state::{Change, State};
use super::{Config, records};

/// Objects as JSON, by `functions/default/hello`.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// Numbers about the store itself.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// In `META`: the form of the tables.
const SCHEMA: &str = "schema";
/// In `META`: the version of the store.
const VERSION: &str = "version";
/// The form of the tables that this program reads and writes.
const SCHEMA_VERSION: u64 = 1;

/// Pages that the database keeps in memory; its default is a gigabyte. What is read comes from the objects in memory, so this need only
/// hold the upper pages of its trees while they are written.
const CACHE_BYTES: usize = 1 << 20;

type Work = Box<dyn FnOnce(&mut Owner) + Send>;

/// What a handle asks for.
pub(super) enum Command {
    /// Work with the database.
    Run(Work),
    /// End, and tell when the file is closed.
    Close(oneshot::Sender<()>),
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Run(_) => "Run",
            Self::Close(_) => "Close",
        })
    }
}

/// The database and what of it is in memory.
pub(super) struct Owner {
    config: Config,
    /// Not there when it could not be opened again.
    database: Option<Database>,
    /// A write has failed, as on a full disk: the database does nothing more until it is opened again.
    broken: bool,
    state: Arc<Mutex<State>>,
    version: watch::Sender<u64>,
}

/// The life of the thread: until it is closed or nobody has a handle any more.
pub(super) fn run(
    config: &Config,
    state: Arc<Mutex<State>>,
    mut commands: mpsc::Receiver<Command>,
    opened: oneshot::Sender<Result<watch::Receiver<u64>, Error>>,
) {
    let mut owner = match Owner::open(config, state) {
        Ok(owner) => owner,
        Err(error) => {
            // Whoever opened has gone: there is nobody to tell.
            opened.send(Err(error)).unwrap_or_default();
            return;
        }
    };
    if opened.send(Ok(owner.version.subscribe())).is_err() {
        return;
    }
    while let Some(command) = commands.blocking_recv() {
        match command {
            Command::Run(work) => work(&mut owner),
            Command::Close(done) => {
                drop(owner);
                done.send(()).unwrap_or_default();
                return;
            }
        }
    }
}

impl Owner {
    fn open(config: &Config, state: Arc<Mutex<State>>) -> Result<Self, Error> {
        let (database, version) = open(config, &state)?;
        let version = watch::Sender::new(version);
        Ok(Self { config: config.clone(), database: Some(database), broken: false, state, version })
    }

    /// Opens the database again after a write has failed. Whether that write was stored is seen then; watches that cannot go on expire.
    fn mend(&mut self) -> Result<(), Error> {
        if self.broken {
            // Its lock on the file has to be gone first.
            self.database = None;
            let (database, version) = open(&self.config, &self.state)?;
            self.database = Some(database);
            self.broken = false;
            self.version.send_replace(version);
            tracing::info!("the database was opened again after a failed write");
        }
        Ok(())
    }

    /// Does `work` in one transaction, which is durable when this returns.
    pub(super) fn write<T>(
        &mut self,
        doing: &'static str,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, Error> {
        self.mend()?;
        let database = self.database.as_ref().ok_or(Error::Closed)?;
        let written = || -> Result<T, redb::Error> {
            let transaction = database.begin_write()?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        written().map_err(|error| {
            self.broken = true;
            failed(doing, error)
        })
    }

    /// Looks at what is durable.
    pub(super) fn read<T>(
        &mut self,
        doing: &'static str,
        look: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, Error> {
        self.mend()?;
        let database = self.database.as_ref().ok_or(Error::Closed)?;
        let read = || -> Result<T, redb::Error> { look(&database.begin_read()?) };
        read().map_err(|error| failed(doing, error))
    }

    /// Carries out what `planned` finds to be changed.
    pub(super) fn change<O: Object>(
        &mut self,
        planned: impl FnOnce(&State) -> Result<Plan<O>, Error>,
    ) -> Result<Arc<O>, Error> {
        const DOING: &str = "write an object";
        self.mend()?;
        let plan = planned(&self.state.lock().unwrap_or_else(PoisonError::into_inner))?;
        let Some(version) = plan.changes.last().map(|change| change.version) else {
            return Ok(plan.answer);
        };
        let mut rows = Vec::with_capacity(plan.changes.len());
        for Change { happened, object, .. } in &plan.changes {
            let text = match happened {
                Happened::Added | Happened::Modified => Some(object.to_json()),
                Happened::Deleted => None,
            };
            let text =
                text.transpose().map_err(|source| Error::Io { doing: DOING, source: Box::new(source) })?;
            rows.push((object.key().row(), text));
        }
        self.write(DOING, |transaction| {
            let mut table = transaction.open_table(OBJECTS)?;
            for (row, text) in &rows {
                match text {
                    Some(text) => table.insert(row.as_str(), text.as_slice())?,
                    None => table.remove(row.as_str())?,
                };
            }
            transaction.open_table(META)?.insert(VERSION, version)?;
            Ok(())
        })?;
        self.state.lock().unwrap_or_else(PoisonError::into_inner).apply(plan.changes);
        self.version.send_replace(version);
        Ok(plan.answer)
    }
}

/// Opens the file and reads everything into `state`; the version that the store has.
fn open(config: &Config, state: &Mutex<State>) -> Result<(Database, u64), Error> {
    // Manifests carry what people put into environments: nobody else reads the file.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&config.path)
        .map_err(|source| Error::Io { doing: "open the file of the store", source: Box::new(source) })?;
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    #[cfg(test)]
    let opened = match &config.full {
        Some(full) => super::tests::disk::Disk::new(file, Arc::clone(full))
            .and_then(|disk| builder.create_with_backend(disk)),
        None => builder.create_file(file),
    };
    #[cfg(not(test))]
    let opened = builder.create_file(file);
    let database = opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => Error::InUse { path: config.path.clone() },
        error => failed("open the database", error),
    })?;
    let (objects, version) = load(&database, config)?;
    state.lock().unwrap_or_else(PoisonError::into_inner).load(objects, version);
    Ok((database, version))
}

/// Makes the tables where there are none, and reads everything.
fn load(database: &Database, config: &Config) -> Result<(Vec<Stored>, u64), Error> {
    const DOING: &str = "read the database";
    let transaction = database.begin_write().map_err(|error| failed(DOING, error))?;
    {
        let mut meta = transaction.open_table(META).map_err(|error| failed(DOING, error))?;
        let found = meta.get(SCHEMA).map_err(|error| failed(DOING, error))?.map(|found| found.value());
        match found {
            None => {
                meta.insert(SCHEMA, SCHEMA_VERSION).map_err(|error| failed(DOING, error))?;
            }
            Some(found) if found > SCHEMA_VERSION => {
                return Err(Error::TooNew { path: config.path.clone(), found, known: SCHEMA_VERSION });
            }
            // A later program that knows several forms brings the tables from one to the next here.
            Some(_) => {}
        }
        transaction.open_table(OBJECTS).map_err(|error| failed(DOING, error))?;
        records::make_tables(&transaction)?;
    }
    transaction.commit().map_err(|error| failed(DOING, error))?;

    let transaction = database.begin_read().map_err(|error| failed(DOING, error))?;
    let meta = transaction.open_table(META).map_err(|error| failed(DOING, error))?;
    let version =
        meta.get(VERSION).map_err(|error| failed(DOING, error))?.map_or(0, |version| version.value());
    let table = transaction.open_table(OBJECTS).map_err(|error| failed(DOING, error))?;
    let mut objects = Vec::new();
    for row in table.iter().map_err(|error| failed(DOING, error))? {
        let (key, text) = row.map_err(|error| failed(DOING, error))?;
        let kind = key.value().split_once('/').and_then(|(plural, _)| Kind::from_plural(plural));
        let corrupt = |source| Error::Corrupt { at: key.value().to_owned(), source };
        let kind = kind.ok_or_else(|| corrupt("this kind of object is not known".into()))?;
        objects.push(Stored::from_json(kind, text.value()).map_err(|source| corrupt(Box::new(source)))?);
    }
    Ok((objects, version))
}

/// Sorts the database's errors: a damaged file is another thing than a disk that fails.
pub(super) fn failed(doing: &'static str, error: impl Into<redb::Error>) -> Error {
    let error = error.into();
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. } => {
            Error::Corrupt { at: "its file".to_owned(), source: Box::new(error) }
        }
        redb::Error::DatabaseClosed => Error::Closed,
        error => Error::Io { doing, source: Box::new(error) },
    }
}
