//! Attested node keys at the SuperLink: registered before a site's first bytes, unregistered when their boot is surely over.
//!
//! A key that was unregistered is never taken again by a SuperLink (measured, 1.29 and 1.41), so that is for boots that cannot come
//! back: another instance took the site's place, or nothing was seen of it for [`GIVEN_UP`]. A site that is cut keeps its key.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coffer_token::lease::{NodeKey, NodeKeyError};
use coffer_token::{Hex, Jkt, Version1};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::command::{CommandError, Flwr};
use super::node_key::openssh_line;
use crate::layout::{LayoutError, private_folder, read_private, replace};
use crate::leases::{Change, Leased};

/// A guest whose network is gone goes on trying, with the same key, and an operator may keep a site cut for hours: a key unregistered too
/// early keeps the node out until its machine is started again, one unregistered too late is a row in the SuperLink's list.
const GIVEN_UP: Duration = Duration::from_secs(24 * 3600);

/// How often what is due is tried again.
const PAUSE: Duration = Duration::from_secs(30);

/// How long a guest waits for its registration before it is told to come again; the work goes on meanwhile.
const PATIENCE: Duration = Duration::from_secs(20);

/// The state file does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodesError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] LayoutError),
    /// It is not of this version's shape.
    #[error("{path}: {source}; hint: restore it; without it, old node keys stay registered at the SuperLink")]
    Parse {
        /// The file.
        path: String,
        /// Where and what.
        source: serde_json::Error,
    },
}

/// Why a node is not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeRefusal {
    /// A guest behind this Flower shows its node key.
    #[error("site {site} has shown no node key; hint: its base is older than this gate")]
    Missing {
        /// The site.
        site: String,
    },
    /// The site has as many keys at the SuperLink as it may have.
    #[error("site {site} has {have} node keys at the SuperLink, at most {limit} are allowed")]
    Limit {
        /// The site.
        site: String,
        /// How many.
        have: usize,
        /// `node_keys_per_site`.
        limit: u16,
    },
    /// The SuperLink is down, or slow.
    #[error("the SuperLink cannot be asked about the node key of site {site}: {cause}")]
    Unreachable {
        /// The site.
        site: String,
        /// What happened.
        cause: String,
    },
    /// It was reached and refused.
    #[error("the SuperLink does not take the node key of site {site}: {cause}")]
    Refused {
        /// The site.
        site: String,
        /// What it said.
        cause: String,
    },
}

/// The keys of every site.
#[derive(Debug)]
pub struct Nodes {
    flwr: Arc<Flwr>,
    limit: u16,
    file: PathBuf,
    keys: PathBuf,
    rows: Mutex<Vec<Row>>,
    /// Keys whose registration is going on.
    busy: Mutex<HashSet<Jkt>>,
}

/// One key that the SuperLink knows, or may know.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    site: String,
    /// REPORT_ID of the boot that has the private half.
    instance: Hex<32>,
    /// Thumbprint of the key.
    jkt: Jkt,
    state: State,
    /// Since when the site holds no lease with this key. By this process's clock: a restart begins anew.
    #[serde(skip)]
    gone: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// About to be registered. What a crash leaves.
    Asked,
    /// The SuperLink said that it knows the key; by which id, it does not say.
    Known,
    /// Registered as this node.
    Node(u64),
    /// The boot is over; this node is to be unregistered.
    Over(u64),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    v: Version1,
    nodes: Vec<Row>,
}

impl Nodes {
    /// Reads what earlier processes registered.
    ///
    /// # Errors
    /// See [`NodesError`].
    pub fn open(flwr: Arc<Flwr>, folder: &Path, limit: u16) -> Result<Arc<Self>, NodesError> {
        let (file, keys) = (folder.join("nodes.json"), folder.join("keys"));
        if !keys.is_dir() {
            private_folder(&keys)?;
        }
        let mut rows = vec![];
        if file.exists() {
            let bytes = read_private(&file)?;
            let read: File =
                serde_json::from_slice(&bytes).map_err(|source| NodesError::Parse { path: file.display().to_string(), source })?;
            rows = read.nodes;
        }
        let now = Instant::now();
        rows.iter_mut().for_each(|row| row.gone = Some(now));
        Ok(Arc::new(Self { flwr, limit, file, keys, rows: Mutex::new(rows), busy: Mutex::default() }))
    }

    /// Has the SuperLink know the node key of a site before its lease begins.
    ///
    /// # Errors
    /// See [`NodeRefusal`].
    pub async fn admit(self: &Arc<Self>, leased: &Leased) -> Result<(), NodeRefusal> {
        let site = leased.site.clone();
        let Some(node) = leased.node.clone() else { return Err(NodeRefusal::Missing { site }) };
        let refused = |error: &dyn std::fmt::Display| NodeRefusal::Refused { site: leased.site.clone(), cause: error.to_string() };
        let jkt = node.thumbprint().map_err(|error| refused(&error))?;
        match self.reserve(leased, jkt).map_err(|error| refused(&error))? {
            Place::Known => return Ok(()),
            Place::Full(have) => return Err(NodeRefusal::Limit { site, have, limit: self.limit }),
            Place::Reserved => {}
        }
        if !self.busy().insert(jkt) {
            return Err(NodeRefusal::Unreachable { site, cause: "it is being asked".to_owned() });
        }
        // A task of its own: a guest that goes away, or is told to come again, does not interrupt a registration.
        let nodes = Arc::clone(self);
        let asked = tokio::spawn(async move {
            let done = nodes.register(jkt, &node).await;
            nodes.busy().remove(&jkt);
            done
        });
        let unreachable = |cause: String| NodeRefusal::Unreachable { site: site.clone(), cause };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(RegisterError::Command(error @ (CommandError::Unreachable { .. } | CommandError::Timeout { .. }))))) => {
                Err(unreachable(error.to_string()))
            }
            Ok(Ok(Err(error))) => Err(refused(&error)),
            Ok(Err(_)) => Err(refused(&"the task that asks it has panicked")),
            Err(_) => Err(unreachable(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    /// Follows the leases and unregisters what is due, for as long as the process lives.
    pub async fn tend(self: Arc<Self>, mut changes: Receiver<Change>) {
        loop {
            match tokio::time::timeout(PAUSE, changes.recv()).await {
                Ok(Ok(change)) => self.note(&change),
                // What was missed is about sites that are gone, whose keys stay until a next boot.
                Ok(Err(RecvError::Lagged(_))) | Err(_) => {}
                Ok(Err(RecvError::Closed)) => return,
            }
            while let Ok(change) = changes.try_recv() {
                self.note(&change);
            }
            for (row, node) in self.over(Instant::now()) {
                match self.flwr.unregister(node).await {
                    Ok(()) | Err(CommandError::Unknown { .. }) => {
                        tracing::info!(site = row.site, node_key = %row.jkt, node, "unregistered the node of a boot that is over");
                        self.rows().retain(|other| other.jkt != row.jkt);
                        self.save_or_warn();
                    }
                    Err(error) => {
                        tracing::warn!(site = row.site, node_key = %row.jkt, node, %error, "cannot unregister a node; trying again")
                    }
                }
            }
        }
    }

    /// A boot that is admitted ends those of its site before it; one whose lease is over keeps its key, for now.
    fn note(&self, change: &Change) {
        let mut rows = self.rows();
        match change {
            Change::Admitted(leased) => {
                for row in rows.iter_mut().filter(|row| row.site == leased.site && row.instance != leased.instance) {
                    if let State::Node(node) = row.state {
                        row.state = State::Over(node);
                    }
                }
            }
            Change::Ended { leased, .. } => {
                for row in rows.iter_mut().filter(|row| row.site == leased.site && row.instance == leased.instance) {
                    row.gone.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    /// Marks and lists the nodes whose boots are over.
    fn over(&self, now: Instant) -> Vec<(Row, u64)> {
        let mut rows = self.rows();
        for row in rows.iter_mut() {
            let given_up = row.gone.is_some_and(|gone| now.saturating_duration_since(gone) >= GIVEN_UP);
            if let (State::Node(node), true) = (row.state, given_up) {
                row.state = State::Over(node);
            }
        }
        rows.retain(|row| !(row.state == State::Known && row.gone.is_some_and(|gone| now.saturating_duration_since(gone) >= GIVEN_UP)));
        let over = |row: &Row| if let State::Over(node) = row.state { Some((row.clone(), node)) } else { None };
        rows.iter().filter_map(over).collect()
    }

    fn reserve(&self, leased: &Leased, jkt: Jkt) -> Result<Place, NodesError> {
        let busy = self.busy().clone();
        let mut rows = self.rows();
        if let Some(row) = rows.iter_mut().find(|row| row.jkt == jkt) {
            row.gone = None;
            if let State::Over(node) = row.state {
                row.state = State::Node(node);
            }
            return Ok(if row.state == State::Asked { Place::Reserved } else { Place::Known });
        }
        // Another boot of this site. Keys without an id of the SuperLink's cannot be unregistered, so nothing is lost with them.
        // Save those that are just being registered: they get an id.
        rows.retain(|row| row.site != leased.site || busy.contains(&row.jkt) || !matches!(row.state, State::Asked | State::Known));
        let have = rows.iter().filter(|row| row.site == leased.site).count();
        if have >= usize::from(self.limit) {
            return Ok(Place::Full(have));
        }
        rows.push(Row { site: leased.site.clone(), instance: leased.instance, jkt, state: State::Asked, gone: None });
        drop(rows);
        self.save()?;
        Ok(Place::Reserved)
    }

    async fn register(&self, jkt: Jkt, node: &NodeKey) -> Result<(), RegisterError> {
        let file = self.keys.join(format!("{jkt}.pub"));
        replace(&file, 0o600, openssh_line(node)?.as_bytes())?;
        let answer = self.flwr.register(&file).await;
        let _ = std::fs::remove_file(&file);
        let state = match answer {
            Ok(node) => State::Node(node),
            Err(CommandError::KeyInUse { .. }) => State::Known,
            Err(error) => return Err(error.into()),
        };
        let site = self.rows().iter_mut().find(|row| row.jkt == jkt).map(|row| {
            row.state = state;
            row.site.clone()
        });
        self.save()?;
        match state {
            State::Node(node) => tracing::info!(site, node_key = %jkt, node, "registered a node at the SuperLink"),
            _ => tracing::warn!(site, node_key = %jkt, "the SuperLink knows this node key already; its node id is not known here"),
        }
        Ok(())
    }

    fn save(&self) -> Result<(), NodesError> {
        let nodes = self.rows();
        let bytes = serde_json::to_vec_pretty(&File { v: Version1, nodes: nodes.clone() });
        let bytes = bytes.map_err(|source| NodesError::Parse { path: self.file.display().to_string(), source })?;
        // Under the lock, so that an older state never replaces a newer one.
        Ok(replace(&self.file, 0o600, &bytes)?)
    }

    fn save_or_warn(&self) {
        if let Err(error) = self.save() {
            tracing::warn!(%error, "what is registered is known to this process only");
        }
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn busy(&self) -> MutexGuard<'_, HashSet<Jkt>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Place {
    Known,
    Reserved,
    Full(usize),
}

#[derive(Debug, thiserror::Error)]
enum RegisterError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    File(#[from] NodesError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Key(#[from] NodeKeyError),
}

#[cfg(test)]
mod tests {
    use coffer_token::UnixTime;

    use super::*;
    use crate::admission::proof::tests::proof;
    use crate::leases::{Instances, Leases, Step};
    use crate::service::clock::Now;

    const T: u64 = 1_795_400_000;
    /// Registers whatever comes, as the node whose id is the number of the call; logs every call.
    const SCRIPT: &str = "echo $2 $3 >>calls; echo '{\"success\": true, \"node-id\": '$(wc -l <calls)'}'";

    fn leased(boot: u8) -> Arc<Leased> {
        let mut proof = proof("site-1", boot, T);
        let secret = p384::SecretKey::from_slice(&[boot; 48]).expect("a scalar");
        proof.node = Some(NodeKey::from_sec1(&secret.public_key().to_sec1_bytes()).expect("a point"));
        let leases = Leases::new(Duration::from_secs(120), Instances { burst: 9, every: Duration::from_secs(1) });
        match leases.prepare(&proof, Now { at: Instant::now(), unix: UnixTime(T) }).expect("a new lease") {
            Step::Begin(leased) => leased,
            Step::Extend => panic!("the first lease of this gate"),
        }
    }

    fn nodes(dir: &Path, script: &str) -> Arc<Nodes> {
        Nodes::open(Arc::new(Flwr::of_script(dir, script)), dir, 3).expect("nodes")
    }

    fn over(nodes: &Nodes, later: Duration) -> Vec<u64> {
        nodes.over(Instant::now() + later).into_iter().map(|(_, node)| node).collect()
    }

    #[tokio::test]
    async fn a_boot_is_over_when_another_was_admitted_and_not_before() {
        let dir = tempfile::tempdir().expect("a folder");
        let nodes = nodes(dir.path(), SCRIPT);
        let (first, second) = (leased(1), leased(2));
        nodes.admit(&first).await.expect("the first boot");
        nodes.admit(&first).await.expect("the same, without asking again");
        assert_eq!(std::fs::read_to_string(dir.path().join("calls")).expect("calls").lines().count(), 1);
        nodes.note(&Change::Admitted(Arc::clone(&first)));
        nodes.admit(&second).await.expect("the second boot");
        assert_eq!(over(&nodes, Duration::ZERO), [0; 0], "registered, but not admitted yet");
        nodes.note(&Change::Admitted(second));
        assert_eq!(over(&nodes, Duration::ZERO), [1]);
        // What is due is still due after a restart.
        nodes.save().expect("saved");
        assert_eq!(over(&self::nodes(dir.path(), SCRIPT), Duration::ZERO), [1]);
    }

    /// A key that the SuperLink learns counts against its site, also where another boot came while it was being asked.
    #[tokio::test]
    async fn a_registration_under_way_is_not_forgotten_for_another_boot() {
        let dir = tempfile::tempdir().expect("a folder");
        let nodes = nodes(dir.path(), &format!("sleep 1; {SCRIPT}"));
        let first = leased(1);
        tokio::time::timeout(Duration::from_millis(100), nodes.admit(&first)).await.expect_err("under way");
        nodes.admit(&leased(2)).await.expect("the second boot");
        for _ in 0..200 {
            if nodes.busy().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let states: Vec<State> = nodes.rows().iter().map(|row| row.state).collect();
        assert!(matches!(states[..], [State::Node(_), State::Node(_)]), "{states:?}");
    }

    #[tokio::test]
    async fn a_site_that_is_cut_keeps_its_key_for_a_day() {
        let dir = tempfile::tempdir().expect("a folder");
        let nodes = nodes(dir.path(), SCRIPT);
        let boot = leased(1);
        nodes.admit(&boot).await.expect("a boot");
        let ended = Change::Ended { leased: Arc::clone(&boot), code: "withdrawn" };
        nodes.note(&ended);
        assert_eq!(over(&nodes, GIVEN_UP - Duration::from_secs(60)), [0; 0]);
        nodes.admit(&boot).await.expect("back");
        assert_eq!(over(&nodes, 2 * GIVEN_UP), [0; 0], "it holds a lease");
        nodes.note(&ended);
        assert_eq!(over(&nodes, GIVEN_UP), [1]);
    }

    #[test]
    fn a_file_of_another_version_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        for (version, good) in [(1, true), (2, false)] {
            replace(&dir.path().join("nodes.json"), 0o600, format!(r#"{{"v": {version}, "nodes": []}}"#).as_bytes()).expect("written");
            let opened = Nodes::open(Arc::new(Flwr::of_script(dir.path(), SCRIPT)), dir.path(), 3);
            assert_eq!(opened.is_ok(), good, "{version}");
            assert!(good || matches!(opened, Err(NodesError::Parse { .. })), "{version}");
        }
    }

    #[tokio::test]
    async fn keys_at_the_superlink_are_bounded_per_site() {
        let dir = tempfile::tempdir().expect("a folder");
        let nodes = nodes(dir.path(), SCRIPT);
        for boot in 1..=3 {
            nodes.admit(&leased(boot)).await.expect("within the bound");
        }
        assert!(matches!(nodes.admit(&leased(4)).await, Err(NodeRefusal::Limit { have: 3, limit: 3, .. })));
    }

    #[tokio::test]
    async fn what_flower_says_becomes_a_refusal_of_its_kind() {
        let dir = tempfile::tempdir().expect("a folder");
        let fails = |message: &str| format!("echo '{{\"success\": false, \"error-message\": \"{message}\"}}'");
        let down = nodes(dir.path(), &fails("Connection to the SuperLink is unavailable."));
        assert!(matches!(down.admit(&leased(1)).await, Err(NodeRefusal::Unreachable { .. })));
        let down = nodes(dir.path(), &fails("The provided public key is invalid."));
        assert!(matches!(down.admit(&leased(1)).await, Err(NodeRefusal::Refused { .. })));
        // A crash between the answer and its record: the key is known, and good.
        let known = nodes(dir.path(), &fails("The provided public key is already in use by another SuperNode."));
        known.admit(&leased(1)).await.expect("known already");
    }
}
