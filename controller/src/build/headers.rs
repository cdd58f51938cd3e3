//! The headers of a tar archive that extend the one after them: long names, links and attributes. The library would read an extension of any
//! size into memory; here it is bounded.

use std::io::{self, Read};

use tar::{EntryType, PaxExtensions};

/// Most bytes of an extension header: a path, times and a few attributes fit many times over.
pub(super) const LONGEST_EXTENSION: u64 = 64 * 1024;

/// Begins the name of an extended attribute in an extension header, as GNU tar, Docker and containerd write it.
const ATTRIBUTE: &[u8] = b"SCHILY.xattr.";

/// What extension headers say of the entry after them.
#[derive(Debug, Default)]
pub(super) struct Extension {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Extended attributes: name and value.
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why an extension header is not read.
#[derive(Debug)]
pub(super) enum Problem {
    /// It breaks off or is none.
    Archive(io::Error),
    /// It is longer than [`LONGEST_EXTENSION`].
    TooLong,
    /// It gives a size, of the entry of this path: believing it would put us out of step with the archive, and sizes that need it are far
    /// beyond any limit.
    Size(Vec<u8>),
}

impl Extension {
    /// Reads the entry if it is an extension header; `false`: it is none.
    pub(super) fn take(&mut self, kind: EntryType, entry: &mut impl Read) -> Result<bool, Problem> {
        match kind {
            EntryType::XGlobalHeader => {
                read(entry)?;
            }
            EntryType::XHeader => self.read_pax(&read(entry)?)?,
            EntryType::GNULongName => self.path = Some(without_nul(read(entry)?)),
            EntryType::GNULongLink => self.link = Some(without_nul(read(entry)?)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn read_pax(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let number = |value: &[u8]| std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        for record in PaxExtensions::new(bytes) {
            let record = record.map_err(Problem::Archive)?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"uid" => self.uid = number(value),
                b"gid" => self.gid = number(value),
                b"size" => return Err(Problem::Size(self.path.take().unwrap_or_default())),
                key => {
                    if let Some(name) = key.strip_prefix(ATTRIBUTE) {
                        self.attributes.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
}

fn read(entry: &mut impl Read) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    entry.take(LONGEST_EXTENSION + 1).read_to_end(&mut bytes).map_err(Problem::Archive)?;
    if bytes.len() as u64 > LONGEST_EXTENSION { Err(Problem::TooLong) } else { Ok(bytes) }
}

fn without_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}
