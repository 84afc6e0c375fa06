//! Every code a peer can be told, in one flat table: status, what it means, who can do what about it.
//!
//! A refusal is made from a [`Reason`] only, so a code without an entry cannot be sent. `REASONS.md` is written from here, and a test
//! compares them.

use std::fmt;

use axum::http::StatusCode;
use coffer_protocol::ErrorKind;
use coffer_verify::Rule;
use serde::Serialize;

use crate::cli;
use crate::failure::{Failure, OrFail};

/// Who is known to have sent what was refused. Decides what is recorded, and who is told more than a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sender {
    /// Anybody: no signature had held. Kept in memory only; the audit log says nothing of it.
    Anybody,
    /// A guest whose report answered this very challenge, or whose session or token holds. In the audit log.
    Guest,
    /// An admin whose signature or token holds; told the whole reason.
    Admin,
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anybody => "anybody",
            Self::Guest => "guest",
            Self::Admin => "admin",
        })
    }
}

/// Both values of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Values {
    /// What the rule wants.
    pub expected: String,
    /// What it got.
    pub got: String,
}

impl Values {
    /// Of two things that can be shown.
    #[must_use]
    pub fn new(expected: &dyn fmt::Display, got: &dyn fmt::Display) -> Self {
        Self { expected: expected.to_string(), got: got.to_string() }
    }
}

macro_rules! reasons {
    ($($name:ident $code:literal $status:ident $kind:ident $sender:ident, $meaning:literal, $remedy:literal;)*) => {
        /// Why a peer is refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            /// Evidence broke a rule of the verifier.
            Rule(Rule),
            $(#[doc = $meaning] $name,)*
        }

        impl Reason {
            /// The service's own reasons, in the order of a handshake, then of admins' calls.
            const OWN: &'static [Self] = &[$(Self::$name),*];

            /// What the peer is told: `snake_case`, stable.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { Self::Rule(rule) => rule.code(), $(Self::$name => $code,)* }
            }

            /// Status of the answer.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { Self::Rule(_) => StatusCode::FORBIDDEN, $(Self::$name => StatusCode::$status,)* }
            }

            /// The protocol's name for the kind of error; stock clients print it.
            #[must_use]
            pub const fn kind(self) -> ErrorKind {
                match self { Self::Rule(_) => ErrorKind::AttestationError, $(Self::$name => ErrorKind::$kind,)* }
            }

            /// Who is known to have sent it.
            #[must_use]
            pub const fn sender(self) -> Sender {
                match self { Self::Rule(rule) => if rule.is_authenticated() { Sender::Guest } else { Sender::Anybody }, $(Self::$name => Sender::$sender,)* }
            }

            /// What it means: what the guest, its evidence or the call did.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { Self::Rule(rule) => rule.question(), $(Self::$name => $meaning,)* }
            }

            /// Who can do what about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { Self::Rule(rule) => rule.remedy(), $(Self::$name => $remedy,)* }
            }
        }
    };
}

reasons! {
    RateLimited "rate_limited" TOO_MANY_REQUESTS PluginInternalError Anybody,
        "comes from an address that asks too often",
        "operator: `[limits]` in coffer-attest.toml; who sits behind one address shares its bound";
    NoSuchPath "no_such_path" NOT_FOUND InvalidRequestPath Anybody,
        "asks for a path that no route has",
        "client: the routes are in `GET /coffer/v1/openapi.json`; is the version of both programs the same?";
    NoSuchMethod "no_such_method" METHOD_NOT_ALLOWED InvalidRequestPath Anybody,
        "uses a method that this path does not have",
        "client: the routes are in `GET /coffer/v1/openapi.json`";
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE SerdeError Anybody,
        "sends a longer body than this path reads, or broke off",
        "client: the limits are in `GET /coffer/v1/openapi.json`; evidence of a guest is far below them";
    MalformedHttp "malformed_http" BAD_REQUEST HttpFailed Anybody,
        "sends something that is no HTTP/1.1",
        "client: speak HTTP/1.1 over TLS; is there a proxy in between that does not?";
    UriTooLong "uri_too_long" URI_TOO_LONG HttpFailed Anybody,
        "asks for a path and query of more than 2 KiB",
        "client: no path of this service is that long";
    HeadTooLarge "head_too_large" REQUEST_HEADER_FIELDS_TOO_LARGE HttpFailed Anybody,
        "sends more than 64 header lines, or more than 32 KiB of them",
        "client: send the session cookie or the token, and no other cookies";
    Slow "slow" REQUEST_TIMEOUT HttpFailed Anybody,
        "took longer than 15 seconds for the head of its request, or 20 for its body",
        "site: is the network that slow? Guests try again by themselves";
    Busy "busy" SERVICE_UNAVAILABLE PluginInternalError Anybody,
        "comes when as many requests wait as may, and its source has its share of them",
        "operator: guests try again by themselves; if it lasts, look which address asks so often, or raise `[limits]`";
    SiteRate "site_rate" TOO_MANY_REQUESTS PluginInternalError Anybody,
        "is genuine, but its site, or its processor with refused evidence, causes more decisions than its bound",
        "site: does the guest restart again and again? The refusals before this one say why; it tries again by itself";
    Timeout "timeout" SERVICE_UNAVAILABLE PluginInternalError Anybody,
        "took longer than 30 seconds to send its request, or the service to answer",
        "operator: is the machine or its disk overloaded? The guest tries again by itself";
    Malformed "malformed" BAD_REQUEST SerdeError Anybody,
        "sends something else than this path takes",
        "client: the bodies are in `GET /coffer/v1/openapi.json`; the explanation has the line and column, and an admin is told it at once";
    ProtocolVersion "protocol_version" BAD_REQUEST SerdeError Anybody,
        "speaks another version of the KBS protocol than 0.4; older ones do not bind device evidence",
        "project admin: build the bundle, or install the client, with a release that speaks 0.4";
    Tee "tee" BAD_REQUEST AttestationError Anybody,
        "is another kind of TEE than SEV-SNP",
        "site: boot on an AMD SEV-SNP host; this service judges no other TEE";
    HashAlgorithm "hash_algorithm" BAD_REQUEST SerdeError Anybody,
        "does not offer SHA-384 for its runtime-data",
        "client: offer `sha384`; SNP evidence is bound with nothing else";
    CofferVersion "coffer_version" BAD_REQUEST SerdeError Anybody,
        "asks for a version of bound keys that this service does not know",
        "project admin: use `coffer-init` and `coffer-attest` of one release";
    RuntimeData "runtime_data" BAD_REQUEST SerdeError Anybody,
        "sends runtime-data that cannot be read or hashed",
        "client: runtime-data is nonce, tee-pubkey and, for bound keys, coffer; each once";
    TeePubkey "tee_pubkey" BAD_REQUEST SerdeError Anybody,
        "has a tee-pubkey that is none of EC P-256, EC P-521 (ECDH-ES+A256KW) and RSA of 2048 to 4096 bits (RSA-OAEP-256)",
        "client: configure one of these; RSA1_5 is broken, ML-KEM is experimental";
    NoChallenge "no_challenge" UNAUTHORIZED AttestationError Anybody,
        "brings evidence and no session cookie",
        "client: `POST /kbs/v0/auth` first, and send its cookie back";
    ChallengeUnreadable "challenge_unreadable" UNAUTHORIZED AttestationError Anybody,
        "brings a session cookie that this service did not seal, or sealed for another purpose",
        "client: ask for a new challenge; behind a load balancer, every replica needs the same folder";
    ChallengeEpoch "challenge_epoch" UNAUTHORIZED AttestationError Anybody,
        "brings a challenge from before the service's last start",
        "client: ask for a new challenge; guests do it by themselves";
    ChallengeExpired "challenge_expired" UNAUTHORIZED AttestationError Anybody,
        "answers a challenge after its 60 seconds",
        "site: is the host overloaded, or the network slow? Guests ask for a new challenge by themselves";
    ChallengeSpent "challenge_spent" UNAUTHORIZED AttestationError Anybody,
        "answers a challenge that was answered before: each counts once, also after a failure",
        "client: ask for a new challenge; if it was not the guest that answered first, somebody had its cookie";
    NonceMismatch "nonce" UNAUTHORIZED AttestationError Anybody,
        "answers another challenge than its cookie's",
        "client: runtime-data has the nonce of the auth answer that set this cookie";
    BoundKeysMissing "bound_keys_missing" UNAUTHORIZED AttestationError Anybody,
        "asked for bound keys and brings none",
        "client: extra-params `coffer: 1` promises a member `coffer` in runtime-data";
    BoundKeysUnasked "bound_keys_unasked" UNAUTHORIZED AttestationError Anybody,
        "brings bound keys and did not ask for them",
        "client: ask with extra-params `coffer: 1`";
    InitData "init_data" FORBIDDEN AttestationError Anybody,
        "sends init-data whose digest is not its report's HOST_DATA",
        "project admin: configure the client without init-data, or with the very text that the site was launched with";
    AdditionalEvidence "additional_evidence" FORBIDDEN AttestationError Anybody,
        "sends device evidence, which this build does not judge",
        "site: boot without the device; nothing that is not judged is passed over";
    CollateralMissing "collateral_missing" FORBIDDEN AttestationError Anybody,
        "comes without the certificate of the key that signed, and this service has none either and nowhere to get it",
        "operator: `coffer-attest collateral import` it (`collateral download` fetches it on another machine), or set `[kds] enabled = true`";
    CollateralPending "collateral_pending" SERVICE_UNAVAILABLE AttestationError Anybody,
        "comes without the certificate of the key that signed, which this service is fetching from AMD's key server",
        "operator: guests try again by themselves; if it lasts, `coffer-attest collateral status` shows why";
    Purpose "purpose" FORBIDDEN AttestationError Anybody,
        "asks for a purpose this build does not serve",
        "project admin: build the site without a GPU requirement";
    Revoked "revoked" FORBIDDEN AttestationError Guest,
        "belongs to a site that was revoked, or whose config was superseded",
        "project admin: revocation is for good; build a new config of the site (or a new site) and enroll it";
    SiteSuspended "site_suspended" FORBIDDEN AttestationError Guest,
        "belongs to a site that is suspended",
        "project admin: `coffer-attest site show PROJECT/SITE` says since when and why; `coffer-attest site resume` lets it in again";
    Policy "policy" FORBIDDEN AttestationError Guest,
        "is genuine and enrolled, but the rego policy does not allow it",
        "project admin: read the project's policy, or ask the operator about `kbs-policy/*.rego`";
    StockReferenceValue "stock_reference_value" FORBIDDEN AttestationError Guest,
        "is genuine and enrolled, but a value of its report is not in the project's exact list",
        "project admin: `stock_reference_values` of the project's policy; a list under a stock name compares by membership";
    Token "token" UNAUTHORIZED TokenVerifierError Anybody,
        "brings a bearer token that is not this service's, expired, or of another kind",
        "client: attest again; job tokens are for gates and fetch nothing here";
    NotAttested "not_attested" UNAUTHORIZED TokenNotFound Anybody,
        "asks for a resource before it has attested; a client's first request always is",
        "client: attest first; sessions end after five minutes and at a restart";
    ValuesChanged "values_changed" UNAUTHORIZED TokenNotFound Anybody,
        "attested before the project's reference values or token rego changed",
        "client: attest again; the new values decide";
    ResourcePath "resource_path" FORBIDDEN PolicyDeny Guest,
        "asks for a secret of another site, config or project than it attested as",
        "site: a guest asks for its own only; if this is yours, somebody changed what runs in it";
    NoSuchResource "no_such_resource" NOT_FOUND PluginNotFound Guest,
        "asks for a resource that does not exist",
        "project admin: the site's secrets are those of its enrollment; a revocation destroys them";
    Jwe "jwe" INTERNAL_SERVER_ERROR JweError Guest,
        "has a key that its secret could not be sealed to",
        "operator: report it with the service's log";
    AdminAuthMissing "admin_auth_missing" UNAUTHORIZED AdminAuthAccess Anybody,
        "calls an admin's route without a signature",
        "admin: call with `coffer-attest`, which signs each call, or send `Authorization: Bearer`";
    AdminAuth "admin_auth" UNAUTHORIZED AdminAuthAccess Anybody,
        "calls an admin's route with a signature that does not hold for this very call",
        "admin: is this the key of an admin of this service, does `--tls-name` (or the host in `--url`) name it, are both clocks right?";
    AdminReplay "admin_replay" UNAUTHORIZED AdminAuthAccess Anybody,
        "repeats a signed call; each counts once",
        "admin: call again; if it was not you who called first, somebody reads your calls";
    AdminScope "admin_scope" FORBIDDEN AdminAuthAccess Admin,
        "calls a route that the admin's scopes do not cover",
        "operator: an admin with scope `admin` gives scopes";
    AdminProject "admin_project" FORBIDDEN AdminAuthAccess Admin,
        "calls for another project, or for the whole service, as an admin of one project",
        "operator: an admin of the whole service can; a project's admin is added with `--project`";
    AdminRevoked "admin_revoked" FORBIDDEN AdminAuthAccess Admin,
        "calls as an admin who was revoked",
        "operator: revocation is for good; `coffer-attest admin add` registers a new name with a new key";
    NoSuchAdmin "no_such_admin" NOT_FOUND PluginNotFound Admin,
        "names an admin who does not exist",
        "admin: `coffer-attest admin list` has every name";
    AdminTaken "admin_taken" CONFLICT PolicyDeny Admin,
        "registers an admin under a name or a key that was given already; both are given once",
        "admin: choose another name, and make a key with `coffer-attest admin new-key`";
    AdminGrant "admin_grant" FORBIDDEN AdminAuthAccess Admin,
        "gives another admin a scope or a project that the giver does not have",
        "operator: an admin who has it can give it";
    LastAdmin "last_admin" CONFLICT PolicyDeny Admin,
        "revokes the last admin who could add another",
        "operator: add a successor with scope `admin` first; on the machine itself `coffer-attest admin recover` adds one in any case";
    AlreadyRevoked "already_revoked" CONFLICT PolicyDeny Admin,
        "revokes what is revoked already",
        "admin: nothing; `coffer-attest revocations list` has its number";
    RevocationValue "revocation_value" BAD_REQUEST SerdeError Admin,
        "revokes a value of another form than its kind has, or gives no reason of one line",
        "admin: the answer says what is expected; `site show` and audit entries have the values";
    NoSuchKey "no_such_key" NOT_FOUND PluginNotFound Admin,
        "names a token key that does not exist",
        "operator: `coffer-attest keys list` has every `kid`";
    TokenKeyState "token_key_state" CONFLICT PolicyDeny Admin,
        "rotates or retires a token key that is not in a state for it",
        "operator: the answer says why; `coffer-attest keys list` has every key's state and times";
    NoSuchSite "no_such_site" NOT_FOUND PluginNotFound Admin,
        "names a site that was never enrolled",
        "admin: `coffer-attest site list` has every name";
    NotActive "not_active" CONFLICT PolicyDeny Admin,
        "revokes a site config that is not the active one, or suspends or resumes a site that has none that is not revoked",
        "admin: `coffer-attest site show PROJECT/SITE` says which one is";
    AlreadySuspended "already_suspended" CONFLICT PolicyDeny Admin,
        "suspends a site that is suspended",
        "admin: nothing; `coffer-attest site show PROJECT/SITE` says since when, by whom and why";
    NotSuspended "not_suspended" CONFLICT PolicyDeny Admin,
        "resumes a site that is not suspended",
        "admin: nothing; `coffer-attest site show PROJECT/SITE` says how it stands";
    NameTaken "name_taken" CONFLICT PolicyDeny Admin,
        "enrolls a name that was given already; names are given once",
        "project admin: a new config of the same site is built with `supersedes`, a new site has a new name";
    HostDataTaken "host_data_taken" CONFLICT PolicyDeny Admin,
        "enrolls a site config that was enrolled before",
        "project admin: nothing, if it is active; else build a new config";
    OtherRootOfTrust "root_of_trust" CONFLICT PolicyDeny Admin,
        "enrolls a site of another root of trust than the service's",
        "project admin: build for this service's root, or enroll at the other service; `GET /healthz` names it";
    AmlRisk "aml_risk" CONFLICT PolicyDeny Admin,
        "enrolls a base that leaves the host's ACPI tables unmeasured",
        "project admin: accept it with `--accept-aml-risk`, or wait for a base with `aml: restricted`";
    Supersedes "supersedes" CONFLICT PolicyDeny Admin,
        "supersedes a config that is not the site's active one",
        "project admin: `coffer-attest site show PROJECT/SITE` has the active HOST_DATA; build against it";
    SiteSvn "site_svn" CONFLICT PolicyDeny Admin,
        "enrolls an older config over a newer one",
        "project admin: raise `site_svn` and build again";
    Record "record" CONFLICT PolicyDeny Admin,
        "enrolls a record with a value that no site can have",
        "project admin: the answer names the member and what is accepted; build again";
    PolicyDocument "policy_document" BAD_REQUEST PolicyDeny Admin,
        "sends a policy document that does not parse, or whose rego does not stand its tests",
        "project admin: the answer names the member, the fixture or the line; the version in force stays";
    PolicyConflict "policy_conflict" CONFLICT PolicyDeny Admin,
        "changes another version of a policy than the one in force",
        "project admin: look at `coffer-attest policy show`, make the change to that version, and name it in `--replaces`";
    NoSuchPolicy "no_such_policy" NOT_FOUND PluginNotFound Admin,
        "asks for a version of a policy that there is not",
        "project admin: `coffer-attest policy history` lists them";
    BearerScope "bearer_scope" FORBIDDEN AdminAuthAccess Admin,
        "makes a call that its bearer token does not cover",
        "project admin: ask for one that does: `coffer-attest admin bearer --project PROJECT --scope SCOPE`";
    NotWritable "not_writable" FORBIDDEN PolicyDeny Admin,
        "writes a resource that the project's policy does not list as writable",
        "project admin: list the path in `stock_resources` with `writable: true`; secrets of an enrollment are never written so";
    StockForm "stock_form" BAD_REQUEST SerdeError Admin,
        "sends a policy or reference value in a form that has no meaning here",
        "project admin: the answer says what to send instead, mostly `coffer-attest policy set`";
    NoSuchRefusal "no_such_refusal" NOT_FOUND PluginNotFound Admin,
        "asks for an id under which nothing is known",
        "admin: is it this service's, and whole? Refusals of strangers are kept in memory, until a restart or newer ones";
    KeyServerOff "key_server_off" CONFLICT PolicyDeny Admin,
        "asks for a fetch from a key server, and this service makes no outgoing connections",
        "operator: `[kds] enabled = true` in coffer-attest.toml, or `coffer-attest collateral download` elsewhere and `import` here";
    Internal "internal" INTERNAL_SERVER_ERROR PluginInternalError Anybody,
        "met a fault of this service; nothing was released",
        "operator: the service's log has it under the id";
}

impl Reason {
    /// Every reason there is.
    pub fn all() -> impl Iterator<Item = Self> {
        Rule::ALL.iter().copied().map(Self::Rule).chain(Self::OWN.iter().copied())
    }

    /// Commands that show or change what the reason is about. `PROJECT` and `SITE` stand for whom it concerns, other capitals for what
    /// only the reader knows.
    #[must_use]
    pub const fn commands(self) -> &'static [&'static str] {
        match self {
            Self::Rule(rule) => rule_commands(rule),
            Self::Revoked | Self::NotActive | Self::Supersedes | Self::SiteSvn | Self::NameTaken | Self::HostDataTaken => SHOW_SITE,
            Self::NoSuchResource | Self::ResourcePath | Self::AlreadySuspended | Self::NotSuspended => SHOW_SITE,
            Self::SiteSuspended => RESUME,
            Self::NoSuchSite => &["coffer-attest site list"],
            Self::AmlRisk => &["coffer-attest site enroll out/enroll/SITE.json --accept-aml-risk"],
            Self::Policy => SHOW_POLICY,
            _ => &[],
        }
    }

    /// The reason that a peer was told.
    #[must_use]
    pub fn of_code(code: &str) -> Option<Self> {
        Self::all().find(|reason| reason.code() == code)
    }
}

const SHOW_SITE: &[&str] = &["coffer-attest site show PROJECT/SITE"];
const RESUME: &[&str] = &["coffer-attest site show PROJECT/SITE", "coffer-attest site resume PROJECT/SITE --reason TEXT"];
const SHOW_POLICY: &[&str] = &["coffer-attest policy show --project PROJECT"];
/// Reference values: look, try, change.
const SET_POLICY: &[&str] = &[
    "coffer-attest policy show --project PROJECT > policy.json",
    "coffer-attest policy dry-run policy.json --project PROJECT",
    "coffer-attest policy set policy.json --project PROJECT --replaces VERSION --reason TEXT",
];
const ENROLL: &[&str] = &["coffer-attest site show PROJECT/SITE", "coffer-attest site enroll out/enroll/SITE.json"];
/// Which shape of the base was launched; then the record for it.
const LAUNCHED: &[&str] =
    &["coffer-attest site show PROJECT/SITE", "coffer base measure BASE --vcpus NUMBER", "coffer-attest site enroll out/enroll/SITE.json"];
const COLLATERAL: &[&str] = &["coffer-attest collateral status", "coffer-attest collateral fetch --family FAMILY"];
const REVOCATIONS: &[&str] = &["coffer-attest revocations list"];

const fn rule_commands(rule: Rule) -> &'static [&'static str] {
    match rule {
        Rule::ReportVersion | Rule::SigningKey | Rule::GuestPolicy | Rule::GuestPolicyAbi | Rule::TcbFloorMissing => SET_POLICY,
        Rule::Family | Rule::TcbFloor | Rule::MinimumFirmware | Rule::Mitigations | Rule::PlatformInfo | Rule::MaskedChip => SET_POLICY,
        Rule::CspId | Rule::ChipAllowed | Rule::ChipDenied | Rule::FamilyId | Rule::ImageId | Rule::GuestSvn => SET_POLICY,
        Rule::IdKey | Rule::AuthorKey => SET_POLICY,
        Rule::VekCount | Rule::CertificateDates | Rule::CertificateTcb | Rule::Crl => COLLATERAL,
        Rule::LaunchDigest => LAUNCHED,
        Rule::HostData | Rule::EnrolledChip | Rule::EnrolledTcbFloor | Rule::EnrolledGuestSvn => ENROLL,
        Rule::EnrolledIdKey | Rule::EnrolledAuthorKey => ENROLL,
        Rule::ChipRevoked | Rule::KeyRevoked | Rule::LaunchDigestRevoked => REVOCATIONS,
        _ => &[],
    }
}

/// `coffer-attest reasons`: the text of `REASONS.md`, or JSON for a monitor that wants to know every code.
///
/// # Errors
/// None; every command may have some.
pub fn print(args: &cli::Reasons) -> Result<(), Failure> {
    if args.json {
        let rows: Vec<_> = Reason::all().map(Row::of).collect();
        println!("{}", serde_json::to_string(&rows).or_fail("cannot print")?);
    } else {
        print!("{}", markdown());
    }
    Ok(())
}

/// One code, as JSON.
#[derive(Serialize)]
struct Row {
    code: &'static str,
    status: u16,
    sender: Sender,
    meaning: &'static str,
    remedy: &'static str,
    commands: &'static [&'static str],
}

impl Row {
    fn of(reason: Reason) -> Self {
        Self {
            code: reason.code(),
            status: reason.status().as_u16(),
            sender: reason.sender(),
            meaning: reason.meaning(),
            remedy: reason.remedy(),
            commands: reason.commands(),
        }
    }
}

/// `REASONS.md`: every code in one table.
fn markdown() -> String {
    let mut text = String::from(TITLE);
    for reason in Reason::all() {
        let (status, sender) = (reason.status().as_u16(), reason.sender());
        text.push_str(&format!("| `{reason}` | {status} | {sender} | {} | {} |\n", reason.meaning(), reason.remedy()));
    }
    text
}

const TITLE: &str = "\
# Reason codes of `coffer-attest`

Everything a guest, a stock client or an admin can be told, with who can do what about it. Written by `coffer-attest reasons`; a test
keeps it equal to the program. `coffer-attest explain ID` tells what was behind one refusal: both values, and the commands to type.

The first rows are the verifier's rules in the order they are asked; what is written there is the question that was answered with no.
`from` says who is known to have sent it: *anybody* (no signature had held: in memory only), *guest* or *admin* (in the audit log; an
admin is told the whole reason at once). At a renewal only a row from *guest* is a refusal, with what `failure_action`
says (rows about resources aside, which a renewal does not ask for); after any other a guest tries again.

| code | status | from | what was asked, or done | who can do what |
|---|---|---|---|---|
";

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use coffer_protocol::Refusal;

    use super::*;

    #[test]
    fn codes_are_unique_can_be_sent_and_lead_back() {
        let codes: BTreeSet<_> = Reason::all().map(Reason::code).collect();
        assert_eq!(codes.len(), Reason::all().count());
        for reason in Reason::all() {
            assert!(Refusal::new(reason.code(), "0").is_some(), "{reason}");
            assert_eq!(Reason::of_code(reason.code()), Some(reason));
            assert!(reason.status().is_client_error() || reason.status().is_server_error(), "{reason}");
        }
        assert_eq!(Reason::of_code("ok"), None);
    }

    #[test]
    fn reasons_md_is_what_this_build_says() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("REASONS.md");
        if std::env::var_os("BLESS").is_some_and(|v| v == "1") {
            std::fs::write(&path, markdown()).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(there, markdown(), "run `coffer-attest reasons > attest/REASONS.md`, or BLESS=1 cargo test, and review the diff");
    }

    /// A command to type that does not parse would be worse than none.
    #[test]
    fn every_command_is_one() {
        let mut seen = 0;
        for reason in Reason::all() {
            for command in reason.commands() {
                if command.starts_with("coffer base measure BASE --vcpus ") {
                    continue;
                }
                let typed =
                    command.split(" >").next().unwrap().replace("VERSION", "1").replace("FAMILY", "genoa").replace("PROJECT", "demo");
                let words = typed.split(' ').chain(["--dir", "service"]);
                let parsed = <cli::Cli as clap::Parser>::try_parse_from(words);
                assert!(parsed.is_ok(), "{reason}: {command}: {}", parsed.unwrap_err());
                seen += 1;
            }
        }
        assert!(seen > 30, "{seen} commands");
    }

    #[test]
    fn every_remedy_says_who_can_do_something() {
        for reason in Reason::OWN {
            let who = reason.remedy().split_once(": ").map(|(who, _)| who);
            assert!(matches!(who, Some("site" | "client" | "admin" | "project admin" | "operator")), "{reason}: {}", reason.remedy());
            assert!(!reason.meaning().ends_with('.') && !reason.remedy().ends_with('.'), "{reason}");
            assert!(!reason.meaning().contains('|') && !reason.remedy().contains('|'), "{reason} breaks the table");
        }
    }
}
