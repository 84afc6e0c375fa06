//! A guest's side of the handshake, honest unless a test changes a field.

use coffer_evidence::{GuestPolicy, HostData, LaunchDigest, ReportData, ReportFields, SnpEvidence};
use coffer_protocol::{
    BoundKeys, Challenge, Jwe, KeySet, Nonce, P384Key, Purpose, Request, RuntimeData, TeeKey, TokenResponse, attestation_body, open,
};
use coffer_simulator::Asp;

use super::{Answer, Client};

/// A launched guest on a simulated processor.
pub struct Guest {
    asp: &'static Asp,
    pub guest: coffer_simulator::Guest,
    tls: P384Key,
    node: Option<P384Key>,
    purpose: Purpose,
}

/// Everything a handshake leaves behind.
pub struct Handshake {
    pub tee_key: TeeKey,
    pub nonce: Nonce,
    pub challenge_cookie: String,
    pub attest_body: Vec<u8>,
    pub answer: Answer,
}

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

impl Guest {
    pub fn new(asp: &'static Asp, launch_digest: LaunchDigest, host_data: HostData) -> Self {
        let guest = coffer_simulator::Guest::launch(launch_digest, host_data, GuestPolicy(0x3_0000)).unwrap();
        // The service only binds this key; nobody signs with it here.
        let mut point = [4; 97];
        point[1..].copy_from_slice(&random::<96>());
        Self { asp, guest, tls: P384Key::from_sec1(&point).unwrap(), node: None, purpose: Purpose::Boot }
    }

    /// The same guest, whose later handshakes are for another purpose.
    pub fn with_purpose(mut self, purpose: Purpose) -> Self {
        self.purpose = purpose;
        self
    }

    /// The same guest with a node key that it binds.
    pub fn with_node(mut self, node: P384Key) -> Self {
        self.node = Some(node);
        self
    }

    pub fn host_data(&self) -> HostData {
        self.guest.host_data
    }

    pub fn tls_key(&self) -> &P384Key {
        &self.tls
    }

    /// Path of one of the guest's own secrets.
    pub fn resource(&self, site: &str, suffix: &str) -> String {
        format!("/kbs/v0/resource/demo/{site}/{}{suffix}", self.host_data())
    }

    /// The handshake of our guest: bound keys, lossless evidence.
    pub fn attest(&self, client: &Client) -> Handshake {
        self.attest_with(client, |_| ())
    }

    /// The same with other words in the report, properly signed.
    pub fn attest_with(&self, client: &Client, change: impl FnOnce(&mut ReportFields)) -> Handshake {
        self.attest_as(client, true, |asp, report_data| {
            let mut fields = asp.fields(&self.guest, report_data, 0);
            change(&mut fields);
            asp.evidence_of(&fields).unwrap()
        })
    }

    /// The handshake of a stock client: no bound keys, stock wire JSON.
    pub fn attest_as_stock(&self, client: &Client) -> Handshake {
        self.attest_as(client, false, |asp, report_data| asp.evidence(&self.guest, report_data).unwrap())
    }

    /// A handshake with evidence from anywhere.
    pub fn attest_as(&self, client: &Client, coffer: bool, evidence: impl FnOnce(&Asp, ReportData) -> SnpEvidence) -> Handshake {
        let challenge = client.post("/kbs/v0/auth", None, &Request::body(coffer));
        assert_eq!(challenge.status, 200, "{}", String::from_utf8_lossy(&challenge.body));
        let challenge_cookie = challenge.cookie.clone().unwrap();
        let challenge = Challenge::parse(&challenge.body).unwrap();
        assert_eq!(challenge.coffer, coffer);
        let (tee_key, attest_body) = self.answer(&challenge, evidence);
        let answer = client.post("/kbs/v0/attest", Some(&challenge_cookie), &attest_body);
        Handshake { tee_key, nonce: challenge.nonce, challenge_cookie, attest_body, answer }
    }

    /// The body of `/attest` that answers a challenge, and the key that goes with it.
    pub fn answer(&self, challenge: &Challenge, evidence: impl FnOnce(&Asp, ReportData) -> SnpEvidence) -> (TeeKey, Vec<u8>) {
        let coffer = challenge.coffer;
        let tee_key = TeeKey::from_random(&random()).unwrap();
        let keys = KeySet { tls: self.tls.clone(), node: self.node.clone(), wg: None };
        let bound = BoundKeys { purpose: self.purpose, keys };
        let runtime_data = RuntimeData { nonce: challenge.nonce, tee_pubkey: tee_key.public(), coffer: coffer.then_some(bound) };
        let report_data = ReportData::new(*runtime_data.report_data("").unwrap().as_bytes());
        let evidence = evidence(self.asp, report_data);
        let wire = if coffer { evidence.to_raw_value() } else { evidence.to_stock_value() }.unwrap();
        let attest_body = attestation_body(&runtime_data, &wire, "").unwrap();
        (tee_key, attest_body)
    }

    /// The processor it runs on.
    pub fn asp(&self) -> &'static Asp {
        self.asp
    }
}

impl Handshake {
    /// The token, of an accepted handshake.
    #[track_caller]
    pub fn token(&self) -> String {
        assert_eq!(self.answer.status, 200, "{}", String::from_utf8_lossy(&self.answer.body));
        TokenResponse::parse(&self.answer.body).unwrap().token
    }

    /// The attested session's cookie.
    #[track_caller]
    pub fn session(&self) -> &str {
        assert_eq!(self.answer.status, 200, "{}", String::from_utf8_lossy(&self.answer.body));
        self.answer.cookie.as_deref().unwrap()
    }

    /// Opens a resource answer with this handshake's key.
    pub fn open(&self, answer: &Answer) -> Vec<u8> {
        assert_eq!((answer.status, answer.content_type.as_str()), (200, "application/json"), "{}", String::from_utf8_lossy(&answer.body));
        open(&Jwe::parse(&answer.body).unwrap(), &self.tee_key).unwrap().to_vec()
    }
}
