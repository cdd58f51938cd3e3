//! Small records beside the objects: bytes by collection and key, and counters that are added to. They have no versions and no watches.

use redb::{ReadableTable, TableDefinition, WriteTransaction};

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
            owner.write(WRITING, |transaction| {
                transaction.open_table(RECORDS)?.insert((collection, key.as_str()), value.as_slice())?;
                Ok(())
            })
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
            owner.read(READING, |transaction| {
                let found = transaction.open_table(RECORDS)?.get((collection, key.as_str()))?;
                Ok(found.map(|value| value.value().to_vec()))
            })
        })
        .await
    }

    /// Every record of the collection, by key.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be read.
    pub async fn records(&self, collection: &'static str) -> Result<Vec<(String, Vec<u8>)>, Error> {
        self.run(move |owner| {
            owner.read(READING, |transaction| {
                let mut found = Vec::new();
                for row in transaction.open_table(RECORDS)?.range((collection, "")..)? {
                    let (key, value) = row?;
                    let (of, key) = key.value();
                    if of != collection {
                        break;
                    }
                    found.push((key.to_owned(), value.value().to_vec()));
                }
                Ok(found)
            })
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
            owner.write(WRITING, |transaction| {
                transaction.open_table(RECORDS)?.remove((collection, key.as_str()))?;
                Ok(())
            })
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
            owner.write(WRITING, |transaction| {
                let mut table = transaction.open_table(COUNTERS)?;
                for (key, amount) in &amounts {
                    let key = (collection, key.as_str());
                    let before = table.get(key)?.map_or(0, |found| found.value());
                    table.insert(key, before.saturating_add(*amount))?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Every counter of the collection, by key.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be read.
    pub async fn counters(&self, collection: &'static str) -> Result<Vec<(String, u64)>, Error> {
        self.run(move |owner| {
            owner.read(READING, |transaction| {
                let mut found = Vec::new();
                for row in transaction.open_table(COUNTERS)?.range((collection, "")..)? {
                    let (key, value) = row?;
                    let (of, key) = key.value();
                    if of != collection {
                        break;
                    }
                    found.push((key.to_owned(), value.value()));
                }
                Ok(found)
            })
        })
        .await
    }
}
