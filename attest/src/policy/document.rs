//! The project policy document, `coffer/project-policy/v1`: parsed strictly, tried, and only then believed.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use coffer_kbs_policy::{ExactValues, Fixture, ProjectRego, UploadError, test_upload};
use coffer_manifest::SiteName;
use coffer_verify::ReferenceValues;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The one `type` this build reads.
pub const DOCUMENT_TYPE: &str = "coffer/project-policy/v1";
/// The longest document read, in bytes: three policies of 64 KiB with fixtures, and lists of chips.
pub const MAX_DOCUMENT_BYTES: usize = 512 * 1024;
/// Stock resources of one project at most.
const MAX_STOCK_RESOURCES: usize = 1024;
/// Sites of one stock resource at most; also what a project can sensibly list by name.
const MAX_SITES: usize = 4096;
/// The longest segment of a stock resource's path, in bytes.
const MAX_SEGMENT_BYTES: usize = 128;

/// Always [`DOCUMENT_TYPE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DocumentType;

impl Serialize for DocumentType {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(DOCUMENT_TYPE)
    }
}

impl<'de> Deserialize<'de> for DocumentType {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let got = String::deserialize(d)?;
        if got == DOCUMENT_TYPE {
            return Ok(Self);
        }
        let got: String = got.chars().take(80).collect();
        Err(D::Error::custom(format!("type is `{got}`, this build reads `{DOCUMENT_TYPE}`")))
    }
}

/// What a project decides apart from its enrollments; changed as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    /// Always [`DOCUMENT_TYPE`].
    #[serde(rename = "type")]
    pub kind: DocumentType,
    /// What evidence must be.
    pub reference_values: ReferenceValues,
    /// Exact lists under the stock service's names; they narrow the values above.
    #[serde(default, skip_serializing_if = "ExactValues::is_empty")]
    pub stock_reference_values: ExactValues,
    /// Resources that stock tools store and stock clients fetch.
    #[serde(default)]
    pub stock_resources: Vec<StockResource>,
    /// The project's own rego.
    #[serde(default)]
    pub rego: Rego,
}

/// One resource of stock clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StockResource {
    /// What follows the project in its path.
    pub path: StockPath,
    /// The sites it is released to. Equality of names, never a pattern.
    pub sites: Vec<SiteName>,
    /// Whether a bearer token with scope `set-resource` may write it.
    #[serde(default)]
    pub writable: bool,
}

/// The project's rego files and their fixtures.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rego {
    /// Package `coffer.release`: narrows what is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Package `coffer.token`: narrows who gets a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Package `policy`, a stock service's resource policy: narrows who gets a stock resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stock: Option<String>,
    /// Questions with the answers they must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fixtures: Vec<Fixture>,
}

impl Rego {
    /// The texts.
    #[must_use]
    pub fn texts(&self) -> ProjectRego<'_> {
        ProjectRego { release: self.release.as_deref(), token: self.token.as_deref(), stock: self.stock.as_deref() }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.release.is_none() && self.token.is_none() && self.stock.is_none()
    }
}

/// `<type>/<tag>` of a stock resource, the second and third segment of its path; the first is the project.
///
/// Segments are the protocol's: `[a-zA-Z0-9_-][a-zA-Z0-9_.-]*`. A tag that could be `<HOST_DATA>[.<name>]` is none, so that no stock
/// resource ever shares a path with a secret of an enrollment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StockPath(String);

/// Text is not a stock resource's path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StockPathError {
    /// Not two segments of the protocol's alphabet.
    #[error("`{got}` is not `<type>/<tag>`, each 1 to {MAX_SEGMENT_BYTES} of a-z, A-Z, 0-9, `_`, `-` and, not first, `.`")]
    Form {
        /// The text given, shortened to 200 characters.
        got: String,
    },
    /// It would stand where an enrollment's secret stands.
    #[error("`{got}` begins its tag with 64 hexadecimal digits, as only secrets of an enrollment do")]
    Reserved {
        /// The text given, shortened to 200 characters.
        got: String,
    },
}

impl StockPath {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Type and tag.
    #[must_use]
    pub fn segments(&self) -> (&str, &str) {
        // There is always one: parsing has seen to it.
        self.0.split_once('/').unwrap_or((&self.0, ""))
    }
}

fn is_segment(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    (1..=MAX_SEGMENT_BYTES).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(inner)
}

impl FromStr for StockPath {
    type Err = StockPathError;

    fn from_str(text: &str) -> Result<Self, StockPathError> {
        let got = || text.chars().take(200).collect();
        let (kind, tag) = text.split_once('/').ok_or_else(|| StockPathError::Form { got: got() })?;
        if !is_segment(kind) || !is_segment(tag) {
            return Err(StockPathError::Form { got: got() });
        }
        if tag.len() >= 64 && tag.bytes().take(64).all(|b| b.is_ascii_hexdigit()) {
            return Err(StockPathError::Reserved { got: got() });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for StockPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for StockPath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for StockPath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// Why a document is not taken. The one in force stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Too long.
    #[error("policy document is {got} bytes long, at most {MAX_DOCUMENT_BYTES} are read")]
    TooLong {
        /// Its size in bytes.
        got: usize,
    },
    /// Not JSON of this shape and schema.
    #[error("policy document does not parse: {0}")]
    Parse(#[source] serde_json::Error),
    /// Two entries for one path: which would count?
    #[error("stock resource `{path}` is listed twice")]
    Repeated {
        /// The path.
        path: StockPath,
    },
    /// More than a project can sensibly have.
    #[error("{what} has {got} entries, at most {limit} are read")]
    Count {
        /// Which list.
        what: &'static str,
        /// Its entries.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// The service's default document speaks for no project.
    #[error("the default document lists stock resources\nhint: they belong to a project; set them with --project")]
    DefaultWithResources,
    /// The rego does not stand its tests.
    #[error(transparent)]
    Rego(#[from] UploadError),
}

impl PolicyDocument {
    /// Reads a document and tries its rego: what this returns may be put into force.
    ///
    /// # Errors
    /// See [`DocumentError`]. Total: any bytes give a document or an error.
    pub fn read(bytes: &[u8]) -> Result<Self, DocumentError> {
        let document = Self::parse(bytes)?;
        test_upload(&document.rego.texts(), &document.rego.fixtures)?;
        Ok(document)
    }

    /// Reads a document that was tried when it was stored.
    ///
    /// # Errors
    /// See [`DocumentError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLong { got: bytes.len() });
        }
        let document: Self = serde_json::from_slice(bytes).map_err(DocumentError::Parse)?;
        document.check_resources()?;
        Ok(document)
    }

    fn check_resources(&self) -> Result<(), DocumentError> {
        let count = |what, got, limit| if got > limit { Err(DocumentError::Count { what, got, limit }) } else { Ok(()) };
        count("`stock_resources`", self.stock_resources.len(), MAX_STOCK_RESOURCES)?;
        let mut seen = BTreeSet::new();
        for resource in &self.stock_resources {
            count("`sites` of a stock resource", resource.sites.len(), MAX_SITES)?;
            if !seen.insert(&resource.path) {
                return Err(DocumentError::Repeated { path: resource.path.clone() });
            }
        }
        Ok(())
    }

    /// Refuses what only a project may say.
    ///
    /// # Errors
    /// [`DocumentError::DefaultWithResources`].
    pub fn check_default(&self) -> Result<(), DocumentError> {
        if self.stock_resources.is_empty() { Ok(()) } else { Err(DocumentError::DefaultWithResources) }
    }

    /// The bytes that are stored: JSON without spaces, members in a fixed order.
    ///
    /// # Errors
    /// [`DocumentError::Parse`] never in practice: every member is a number, a text or a list.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        serde_json::to_vec(self).map_err(DocumentError::Parse)
    }

    /// A document that refuses all evidence: what holds where nobody has decided anything.
    #[must_use]
    pub fn closed() -> Self {
        Self {
            kind: DocumentType,
            reference_values: ReferenceValues::closed(),
            stock_reference_values: ExactValues::default(),
            stock_resources: Vec::new(),
            rego: Rego::default(),
        }
    }

    /// The entry of a stock resource.
    #[must_use]
    pub fn stock_resource(&self, path: &StockPath) -> Option<&StockResource> {
        self.stock_resources.iter().find(|resource| resource.path == *path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    pub(in crate::policy) fn document() -> Value {
        json!({
            "type": DOCUMENT_TYPE,
            "reference_values": { "families": { "genoa": { "tcb_floor": { "bootloader": 10, "tee": 0, "snp": 23, "microcode": 84 } } } },
            "stock_resources": [{ "path": "disk/key1", "sites": ["site-1"], "writable": true }],
            "rego": { "release": "package coffer.release\ndefault allow := false\nallow if input.evidence.family == \"genoa\"\n" },
        })
    }

    fn with(pointer: &str, value: Value) -> Vec<u8> {
        let mut changed = document();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let place = changed.pointer_mut(parent).unwrap();
        match place {
            Value::Array(items) => items.push(value),
            other => other[name] = value,
        }
        changed.to_string().into_bytes()
    }

    #[test]
    fn a_document_comes_back_as_it_was_stored() {
        let read = PolicyDocument::read(document().to_string().as_bytes()).unwrap();
        let stored = read.to_bytes().unwrap();
        assert_eq!(PolicyDocument::parse(&stored).unwrap(), read);
        assert_eq!(PolicyDocument::parse(&stored).unwrap().to_bytes().unwrap(), stored);
        assert!(read.stock_resource(&"disk/key1".parse().unwrap()).unwrap().writable);
        assert!(read.stock_resource(&"disk/key".parse().unwrap()).is_none(), "a prefix is another path");
    }

    #[test]
    fn every_mistake_is_named() {
        for (bytes, says) in [
            (
                with("/type", json!("coffer/project-policy/v2")),
                "type is `coffer/project-policy/v2`, this build reads `coffer/project-policy/v1`",
            ),
            (with("/more", json!(1)), "unknown field `more`"),
            (with("/reference_values/more", json!(1)), "unknown field `more`"),
            (with("/rego/more", json!(1)), "unknown field `more`"),
            (with("/stock_resources/-", json!({ "path": "disk/key1", "sites": [] })), "`disk/key1` is listed twice"),
            (with("/stock_resources/-", json!({ "path": "disk", "sites": [] })), "is not `<type>/<tag>`"),
            (with("/stock_resources/-", json!({ "path": "disk/../x", "sites": [] })), "is not `<type>/<tag>`"),
            (with("/stock_resources/-", json!({ "path": format!("site-1/{}", "ab".repeat(32)), "sites": [] })), "64 hexadecimal digits"),
            (
                with("/stock_resources/-", json!({ "path": format!("site-1/{}.kit", "AB".repeat(32)), "sites": [] })),
                "64 hexadecimal digits",
            ),
            (with("/stock_resources/-", json!({ "path": "a/b", "sites": ["*"] })), "is not a name"),
            (
                with(
                    "/reference_values/families/milan",
                    json!({ "tcb_floor": { "bootloader": 4, "tee": 0, "snp": 24, "microcode": 219 } }),
                ),
                "arXiv 2605.12990",
            ),
            (with("/rego/release", json!("package coffer.release\ndefault allow := true\n")), "does not deny the empty input"),
            (with("/rego/token", json!("package coffer.release\ndefault allow := false\n")), "expected `data.coffer.token`"),
            (with("/stock_reference_values", json!({ "svn": ["1"] })), "unknown variant `svn`"),
            (vec![b' '; MAX_DOCUMENT_BYTES + 1], "at most 524288 are read"),
            (br#"{"type":"coffer/project-policy/v1","type":"coffer/project-policy/v1"}"#.to_vec(), "duplicate field `type`"),
            (Vec::new(), "EOF"),
        ] {
            let error = PolicyDocument::read(&bytes).unwrap_err().to_string();
            assert!(error.contains(says), "{error}\nexpected: {says}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes: Vec<u8>, at in 0usize..400, byte: u8) {
            let _ = PolicyDocument::parse(&bytes);
            let mut text = document().to_string().into_bytes();
            let at = at % text.len();
            text[at] = byte;
            let _ = PolicyDocument::parse(&text);
        }

        #[test]
        fn paths_are_two_segments_and_never_an_enrollments(text in "[a-fA-F0-9./_-]{0,140}") {
            if let Ok(path) = text.parse::<StockPath>() {
                prop_assert_eq!(path.to_string(), text.clone());
                let (kind, tag) = path.segments();
                let full = format!("demo/{}/{}", kind, tag);
                prop_assert!(full.parse::<coffer_manifest::ResourcePath>().is_err());
            }
        }
    }
}
