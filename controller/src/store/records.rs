//! Small records beside the objects: bytes by collection and key, and counters that are added to. They have no versions and no watches.

use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::Store;
use super::error::Error;
use super::owner::failed;

/// Bytes by collection and key.
const RECORDS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("records");
/// Numbers by collection and key.
const COUNTERS: TableDefinition<'_, (&str, &str), u64> = TableDefinition::new("counters");

const READING: &str = "read records";
const WRITING: &str = "write records";

pub(super) fn make_tables(transaction: &WriteTransaction) -> Result<(), Error> {
    transaction.open_table(RECORDS).map_err(|error| failed(READING, error))?;
    transaction.open_table(COUNTERS).map_err(|error| failed(READING, error))?;
    Ok(())
}

impl Store {
    /// Stores `value` in the place of what was there.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk refuses it.
    pub async fn put_record(&self, collection: &'static str, key: &str, value: Vec<u8>) -> Result<(), Error> {
        let key = key.to_owned();
        self.run(move |owner| {
            let transaction = owner.database.begin_write().map_err(|error| failed(WRITING, error))?;
            {
                let mut table = transaction.open_table(RECORDS).map_err(|error| failed(WRITING, error))?;
                table
                    .insert((collection, key.as_str()), value.as_slice())
                    .map_err(|error| failed(WRITING, error))?;
            }
            transaction.commit().map_err(|error| failed(WRITING, error))
        })
        .await
    }

    /// The record of this key.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read.
    pub async fn record(&self, collection: &'static str, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let key = key.to_owned();
        self.run(move |owner| {
            let transaction = owner.database.begin_read().map_err(|error| failed(READING, error))?;
            let table = transaction.open_table(RECORDS).map_err(|error| failed(READING, error))?;
            let found = table.get((collection, key.as_str())).map_err(|error| failed(READING, error))?;
            Ok(found.map(|value| value.value().to_vec()))
        })
        .await
    }

    /// Every record of the collection, by key.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be read.
    pub async fn records(&self, collection: &'static str) -> Result<Vec<(String, Vec<u8>)>, Error> {
        self.run(move |owner| {
            let transaction = owner.database.begin_read().map_err(|error| failed(READING, error))?;
            let table = transaction.open_table(RECORDS).map_err(|error| failed(READING, error))?;
            let mut found = Vec::new();
            for row in table.range((collection, "")..).map_err(|error| failed(READING, error))? {
                let (key, value) = row.map_err(|error| failed(READING, error))?;
                let (of, key) = key.value();
                if of != collection {
                    break;
                }
                found.push((key.to_owned(), value.value().to_vec()));
            }
            Ok(found)
        })
        .await
    }

    /// Takes the record away; one that is not there is no error.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk refuses it.
    pub async fn delete_record(&self, collection: &'static str, key: &str) -> Result<(), Error> {
        let key = key.to_owned();
        self.run(move |owner| {
            let transaction = owner.database.begin_write().map_err(|error| failed(WRITING, error))?;
            {
                let mut table = transaction.open_table(RECORDS).map_err(|error| failed(WRITING, error))?;
                table.remove((collection, key.as_str())).map_err(|error| failed(WRITING, error))?;
            }
            transaction.commit().map_err(|error| failed(WRITING, error))
        })
        .await
    }

    /// Adds to counters, all of them in one transaction; one that is not there begins at 0, and none goes past the largest number.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk refuses it; then none was added to.
    pub async fn add_to_counters(
        &self,
        collection: &'static str,
        amounts: Vec<(String, u64)>,
    ) -> Result<(), Error> {
        self.run(move |owner| {
            let transaction = owner.database.begin_write().map_err(|error| failed(WRITING, error))?;
            {
                let mut table = transaction.open_table(COUNTERS).map_err(|error| failed(WRITING, error))?;
                for (key, amount) in &amounts {
                    let key = (collection, key.as_str());
                    let before = table
                        .get(key)
                        .map_err(|error| failed(WRITING, error))?
                        .map_or(0, |found| found.value());
                    table
                        .insert(key, before.saturating_add(*amount))
                        .map_err(|error| failed(WRITING, error))?;
                }
            }
            transaction.commit().map_err(|error| failed(WRITING, error))
        })
        .await
    }

    /// Every counter of the collection, by key.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be read.
    pub async fn counters(&self, collection: &'static str) -> Result<Vec<(String, u64)>, Error> {
        self.run(move |owner| {
            let transaction = owner.database.begin_read().map_err(|error| failed(READING, error))?;
            let table = transaction.open_table(COUNTERS).map_err(|error| failed(READING, error))?;
            let mut found = Vec::new();
            for row in table.range((collection, "")..).map_err(|error| failed(READING, error))? {
                let (key, value) = row.map_err(|error| failed(READING, error))?;
                let (of, key) = key.value();
                if of != collection {
                    break;
                }
                found.push((key.to_owned(), value.value()));
            }
            Ok(found)
        })
        .await
    }
}
