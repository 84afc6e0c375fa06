//! What the gate knows of Flower: its versions, its ports, its commands, its forms of error.

mod command;
pub mod config;
mod control;
mod fleet;
mod node_key;
mod nodes;
mod protobuf;
mod rule;
mod runs;
mod tls;
mod upstream;
mod version;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use crate::layout::{LayoutError, private_folder};
use crate::leases::{Leased, Leases};

use command::{CommandError, Flwr};
use config::{ConfigError, Mode};
use control::Control;
use fleet::Fleet;
pub use nodes::NodeRefusal;
use nodes::{Nodes, NodesError};
use runs::{Runs, RunsError};
use tls::FlowerTlsError;
use upstream::SuperLink;
use version::Family;

/// The gate cannot stand in front of this Flower.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlowerError {
    /// The settings contradict each other, or the Flower that was found.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its command line.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] FlowerTlsError),
    /// The gate's folder.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// What was kept about nodes.
    #[error(transparent)]
    Nodes(#[from] NodesError),
    /// What was kept about runs.
    #[error(transparent)]
    Runs(#[from] RunsError),
    /// The Control front.
    #[error("cannot listen at control_listen = {address}: {source}; hint: is another gate, or the SuperLink itself, there?")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
}

/// One SuperLink, as the gate fronts it.
pub struct Flower {
    nodes: Option<Arc<Nodes>>,
    fleet: Option<Fleet>,
}

impl Flower {
    /// Finds the version, starts the Control front and what looks after nodes and runs.
    ///
    /// # Errors
    /// See [`FlowerError`].
    pub async fn start(flower: &config::Flower, runs: &config::Runs, leases: Arc<Leases>) -> Result<Arc<Self>, FlowerError> {
        flower.check(runs)?;
        let Some(ca) = flower.ca.as_deref().filter(|_| flower.is_managed()) else {
            tracing::info!(fleet = flower.fleet, "carrying bytes only: [flower] control is not set, no node key is registered");
            return Ok(Arc::new(Self { nodes: None, fleet: None }));
        };
        for folder in [flower.folder.clone(), command::home(&flower.folder)] {
            if !folder.is_dir() {
                private_folder(&folder)?;
            }
        }
        let version = Flwr::version(&flower.flwr, &command::home(&flower.folder)).await?;
        let family = flower.check_version(version)?;
        let flwr = Arc::new(Flwr::new(flower, family)?);
        tracing::info!(%version, mode = ?flower.mode, "found Flower");
        let nodes = if family.registers_nodes() {
            let nodes = Nodes::open(Arc::clone(&flwr), &flower.folder, flower.node_keys_per_site)?;
            tokio::spawn(Arc::clone(&nodes).tend(leases.changes()));
            Some(nodes)
        } else {
            tracing::warn!(%version, "this Flower registers no node keys at run time: nodes have the keys of their kits");
            None
        };
        let changes = leases.changes();
        let runs = Runs::open(runs.clone(), leases, flwr, &flower.folder)?;
        let http2 = family.has_fleet_port();
        let alpn: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
        let name = tls::server_name(flower.tls_name())?;
        let superlink = |address: &str| -> Result<SuperLink, FlowerError> {
            Ok(SuperLink { address: address.to_owned(), name: name.clone(), tls: tls::connector(ca, alpn)?, http2 })
        };
        let mut fleet = None;
        if let (Some(certificate), Some(key)) = (&flower.certificate, &flower.key) {
            let acceptor = tls::acceptor(certificate, key, alpn)?;
            if let Some(address) = flower.control_listen {
                let listener = TcpListener::bind(address).await.map_err(|source| FlowerError::Listen { address, source })?;
                let (tls, superlink) = (acceptor.clone(), superlink(flower.control_address())?);
                let front = Control { tls, superlink, runs: Arc::clone(&runs), prints_precondition: family >= Family::Grpc };
                tokio::spawn(Arc::new(front).serve(listener));
            }
            if flower.mode == Mode::Terminate {
                fleet = Some(Fleet {
                    tls: acceptor,
                    superlink: superlink(&flower.fleet)?,
                    runs: Arc::clone(&runs),
                    lines: fleet::lines_of_calls(),
                });
            }
        }
        tokio::spawn(runs.watch(changes));
        Ok(Arc::new(Self { nodes, fleet }))
    }

    /// Has the SuperLink know a site's attested node key. Before the site is admitted for the first time.
    ///
    /// # Errors
    /// See [`NodeRefusal`].
    pub async fn admit_node(&self, leased: &Leased) -> Result<(), NodeRefusal> {
        match &self.nodes {
            Some(nodes) => nodes.admit(leased).await,
            None => Ok(()),
        }
    }

    /// Whether tunnels are for [`Self::serve_fleet`], and not to be carried as they are.
    #[must_use]
    pub fn terminates(&self) -> bool {
        self.fleet.is_some()
    }

    /// Serves Flower's own TLS inside a tunnel: `mode = "terminate"`.
    ///
    /// # Errors
    /// What ended it, other than an orderly close.
    pub async fn serve_fleet<S>(&self, leased: Arc<Leased>, stream: S) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match &self.fleet {
            Some(fleet) => fleet.serve(leased, stream).await,
            None => Err(io::Error::other("this gate carries bytes as they are")),
        }
    }
}
