//! The results of ADD, kept for CHECK, DEL and GC in libcni's format, file by file.

use crate::kernel::netns::Netns;
use crate::spec::{Attachment, Code, Coded, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io;
use std::path::{Path, PathBuf};

const KIND: &str = "cniCacheV1";
/// No config and result are larger, in bytes.
const MOST: u64 = 16 << 20;

/// A folder of results.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

/// What is kept of one attachment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Entry {
    pub(super) kind: String,
    /// The container's ID.
    pub container_id: String,
    /// The network's config, base64.
    pub(super) config: String,
    /// The interface's name inside the container.
    pub if_name: String,
    /// The network's name.
    pub network_name: String,
    /// The value of `CNI_NETNS`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub netns: String,
    /// The pairs of `CNI_ARGS`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cni_args: Vec<(String, String)>,
    /// What the runtime said under each capability.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub capability_args: Map<String, Value>,
    /// The result.
    pub result: Value,
}

impl Entry {
    /// Gives it the network's config.
    #[must_use]
    pub fn with_config(self, text: &[u8]) -> Self {
        Self { kind: KIND.to_owned(), config: STANDARD.encode(text), ..self }
    }

    /// Whether the container's network namespace is there. One that can't be looked at counts as there.
    #[must_use]
    pub fn is_living(&self) -> bool {
        let entered = Netns::open(Path::new(&self.netns)).and_then(|netns| netns.run(|| Ok(())));
        !matches!(entered, Err(error) if error.code == Code::BAD_ENVIRONMENT)
    }

    /// The network's config, as it was at ADD; `None` when it is none.
    #[must_use]
    pub fn config(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.config).ok()
    }
}

impl Cache {
    /// The cache below `dir`: libcni's default is `/var/lib/cni`, kubelet's `/var/lib/cni/cache`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { folder: dir.join("results") }
    }

    fn file(&self, attachment: &Attachment) -> PathBuf {
        let Attachment { network, container_id, ifname } = attachment;
        self.folder.join(format!("{network}-{container_id}-{ifname}"))
    }

    /// Keeps `entry`, whole or not at all.
    ///
    /// # Errors
    /// Code 5: what the file system says.
    pub fn store(&self, attachment: &Attachment, entry: &Entry) -> Result<()> {
        let file = self.file(attachment);
        // Not durable: no attachment outlives a crash of the machine either.
        crate::disk::write_atomic(&file, crate::spec::json::compact(entry).as_bytes(), false).io(format!(
            "failed to set network {:?} cached result: {}",
            attachment.network.as_str(),
            file.display()
        ))
    }

    /// What is kept of an attachment. What can't be read or is none of ours is as good as nothing.
    #[must_use]
    pub fn load(&self, attachment: &Attachment) -> Option<Entry> {
        read(&self.file(attachment))
    }

    /// Forgets an attachment.
    ///
    /// # Errors
    /// Code 5: what the file system says, unless nothing is there.
    pub fn remove(&self, attachment: &Attachment) -> Result<()> {
        let file = self.file(attachment);
        crate::disk::remove(&file).io(format!("remove {}", file.display()))
    }

    /// Removes what an ADD was writing when it was killed.
    ///
    /// # Errors
    /// Code 5 when the folder can't be read.
    pub fn sweep(&self) -> Result<()> {
        crate::disk::sweep(&self.folder).io(format!("list {}", self.folder.display()))
    }

    /// What is kept of a network.
    ///
    /// # Errors
    /// Code 5 when the folder can't be read.
    pub fn of_network(&self, network: &str) -> Result<Vec<Entry>> {
        let files = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            files => files.io(format!("list {}", self.folder.display()))?,
        };
        // What begins with a dot was never put into its place; no network's name does.
        let files = files.flatten().filter(|file| !file.file_name().as_encoded_bytes().starts_with(b"."));
        let entries = files.filter_map(|file| read(&file.path()));
        Ok(entries.filter(|entry| entry.network_name == network && !entry.if_name.is_empty()).collect())
    }
}

/// What is kept is carried out, as root: so only what root, or whoever we are, wrote.
fn read(file: &Path) -> Option<Entry> {
    let text = match crate::disk::read_own(file, MOST) {
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                crate::log!("what is kept of a pod is passed over: {error}");
            }
            return None;
        }
        Ok(text) => text,
    };
    let entry: Entry = serde_json::from_slice(&text).ok()?;
    (entry.kind == KIND).then_some(entry)
}
