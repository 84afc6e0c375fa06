//! Policy as data: what a project decides besides its enrollments, as one document, changed as a whole, kept version by version.
//!
//! Requests read compiled policies from memory ([`Policies::of`]). A change is parsed, tried and compiled first, then written in
//! place of the version its author looked at, then shown to everybody at once; a change that fails at any step leaves the old one.

mod document;
mod dry_run;
pub mod stock_body;
mod trustee;
mod weaker;

use std::collections::HashMap;
use std::sync::Arc;

use coffer_kbs_policy::{Policy, PolicyError};
use coffer_manifest::{ProjectName, Sha256Digest};
use coffer_verify::{ReferenceValues, RootOfTrust};

pub use document::{DOCUMENT_TYPE, DocumentError, MAX_DOCUMENT_BYTES, PolicyDocument, StockPath};
pub use dry_run::{DryRun, dry_run};
pub use trustee::export;
pub use weaker::weakenings;

use crate::live::Live;
use crate::store::{NewPolicy, PolicyChange, PolicyOwner, PolicyVersion, SetPolicyError, Store};

/// A document in force and its compiled rego.
#[derive(Debug)]
pub struct ProjectPolicy {
    /// Whose document it is; the default's for a project without one.
    pub owner: PolicyOwner,
    /// Its version; 0 where nobody has decided anything.
    pub version: u64,
    /// The document.
    pub document: PolicyDocument,
    /// The built-in rego, narrowed by the document's.
    pub rego: Arc<Policy>,
    /// Which reference values these are: a session that was opened under others does not count any more.
    pub values_tag: String,
}

/// 16 hexadecimal digits of the SHA-256 of everything that evidence was held against: what was let in under something else does not
/// count any more.
fn values_tag(document: &PolicyDocument) -> String {
    // Values came out of JSON and go back into it.
    let asked = (&document.reference_values, &document.stock_reference_values, &document.rego.token);
    let text = serde_json::to_vec(&asked).unwrap_or_default();
    Sha256Digest::of(&text).to_string()[..16].to_owned()
}

impl ProjectPolicy {
    /// What evidence must be; none where nobody has decided, which refuses everything.
    #[must_use]
    pub fn reference_values(&self) -> Option<&ReferenceValues> {
        (self.version != 0).then_some(&self.document.reference_values)
    }
}

/// A stored document does not load.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The built-in rego.
    #[error("policy: {0}")]
    BuiltIn(#[source] PolicyError),
    /// A document of another build, or a damaged one.
    #[error("version {version} of {owner}: {source}")]
    Document {
        /// Whose.
        owner: PolicyOwner,
        /// Which version.
        version: u64,
        /// What is wrong with it.
        source: DocumentError,
    },
}

/// Why a document is not put into force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The document itself.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Its version, or the database.
    #[error(transparent)]
    Set(#[from] SetPolicyError),
}

/// What a change did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The version in force now.
    pub version: u64,
    /// What got weaker by it.
    pub weaker: Vec<String>,
}

/// Every policy in force. Read by every request, replaced as a whole.
#[derive(Debug)]
pub struct Policies {
    root_of_trust: RootOfTrust,
    builtin: Arc<Policy>,
    live: Live<Snapshot>,
}

#[derive(Debug, Clone)]
struct Snapshot {
    default: Arc<ProjectPolicy>,
    projects: HashMap<ProjectName, Arc<ProjectPolicy>>,
}

impl Policies {
    /// Compiles the newest documents, as [`Store::policies`] gives them.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(stored: Vec<(PolicyOwner, PolicyVersion)>, root_of_trust: RootOfTrust) -> Result<Self, LoadError> {
        let builtin = Arc::new(Policy::builtin(&root_of_trust).map_err(LoadError::BuiltIn)?);
        let nobodys = ProjectPolicy {
            owner: PolicyOwner::Default,
            version: 0,
            document: PolicyDocument::closed(),
            rego: Arc::clone(&builtin),
            values_tag: "none".to_owned(),
        };
        let live = Live::new(Snapshot { default: Arc::new(nobodys), projects: HashMap::new() });
        let policies = Self { root_of_trust, builtin, live };
        for (owner, stored) in stored {
            let version = stored.version;
            let broken = |source| LoadError::Document { owner: owner.clone(), version, source };
            let document = PolicyDocument::parse(&stored.document).map_err(broken)?;
            let compiled = policies.compile(&owner, version, document).map_err(broken)?;
            policies.show(compiled);
        }
        Ok(policies)
    }

    /// The policy of a project: its own, or the default.
    #[must_use]
    pub fn of(&self, project: &ProjectName) -> Arc<ProjectPolicy> {
        let snapshot = self.live.load();
        Arc::clone(snapshot.projects.get(project).unwrap_or(&snapshot.default))
    }

    /// The service's default.
    #[must_use]
    pub fn default(&self) -> Arc<ProjectPolicy> {
        Arc::clone(&self.live.load().default)
    }

    /// Whether any document in force takes any family.
    #[must_use]
    pub fn accepts_anything(&self) -> bool {
        let snapshot = self.live.load();
        let mut all = snapshot.projects.values().chain([&snapshot.default]);
        all.any(|policy| policy.document.reference_values.families.taken().next().is_some())
    }

    /// What decides for this owner now.
    #[must_use]
    pub fn in_force(&self, owner: &PolicyOwner) -> Arc<ProjectPolicy> {
        match owner {
            PolicyOwner::Default => self.default(),
            PolicyOwner::Project(project) => self.of(project),
        }
    }

    /// The version that a change for this owner has to replace; 0 if it has no document of its own.
    #[must_use]
    pub fn own_version(&self, owner: &PolicyOwner) -> u64 {
        let policy = self.in_force(owner);
        if policy.owner == *owner { policy.version } else { 0 }
    }

    /// Compiles a document without putting it into force.
    ///
    /// # Errors
    /// [`DocumentError::Rego`].
    pub fn compile(&self, owner: &PolicyOwner, version: u64, document: PolicyDocument) -> Result<ProjectPolicy, DocumentError> {
        let rego = if document.rego.is_empty() {
            Arc::clone(&self.builtin)
        } else {
            let compiled = Policy::compile(&self.root_of_trust, document.rego.texts());
            Arc::new(compiled.map_err(|e| DocumentError::Rego(e.into()))?)
        };
        let values_tag = values_tag(&document);
        Ok(ProjectPolicy { owner: owner.clone(), version, document, rego, values_tag })
    }

    /// Compiles a document that is to be put into force: before the database is locked, since a project's rego may take its time.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub fn prepare(&self, owner: &PolicyOwner, document: Checked) -> Result<Prepared, ChangeError> {
        let bytes = document.0.to_bytes()?;
        Ok(Prepared { bytes, compiled: self.compile(owner, 0, document.0)? })
    }

    /// Puts a document into force in place of version `replaces` of its owner's.
    ///
    /// `store` is locked by the caller for the whole change, so that what is shown is what is newest.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing has changed then.
    pub fn change(&self, store: &mut Store, replaces: u64, prepared: Prepared, change: PolicyChange) -> Result<Changed, ChangeError> {
        let Prepared { bytes, mut compiled } = prepared;
        let owner = &compiled.owner;
        let weaker = weakenings(&self.in_force(owner).document, &compiled.document);
        let version = store.set_policy(&NewPolicy { owner, replaces, document: &bytes, weaker: &weaker, change })?;
        compiled.version = version;
        self.show(compiled);
        Ok(Changed { version, weaker })
    }

    fn show(&self, policy: ProjectPolicy) {
        let mut snapshot = Snapshot::clone(&self.live.load());
        match policy.owner.clone() {
            PolicyOwner::Default => snapshot.default = Arc::new(policy),
            PolicyOwner::Project(project) => {
                snapshot.projects.insert(project, Arc::new(policy));
            }
        }
        self.live.replace(snapshot);
    }
}

/// A document that is ready to be put into force: tried and compiled.
#[derive(Debug)]
pub struct Prepared {
    bytes: Vec<u8>,
    compiled: ProjectPolicy,
}

/// A document that stood its tests. Only [`Checked::read`] makes one, before the database is locked.
#[derive(Debug)]
pub struct Checked(PolicyDocument);

impl Checked {
    /// Reads and tries a document for its owner.
    ///
    /// # Errors
    /// See [`DocumentError`].
    pub fn read(owner: &PolicyOwner, bytes: &[u8]) -> Result<Self, DocumentError> {
        let document = PolicyDocument::read(bytes)?;
        if *owner == PolicyOwner::Default {
            document.check_default()?;
        }
        Ok(Self(document))
    }

    /// The document.
    #[must_use]
    pub fn into_document(self) -> PolicyDocument {
        self.0
    }
}
