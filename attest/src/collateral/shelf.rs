//! Everything that is known, in memory: what a request may look at.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use coffer_evidence::{CertEntry, CertKind, Family, SigningKey, SnpEvidence, TcbVersion, UnixTime, VekKind};
use coffer_verify::Collateral;

use super::key::ChipTcb;
use super::piece::{Piece, What};
use crate::store::{CollateralKind, CollateralRow};

/// Certificates that hosts supplied and nobody else, kept at most; about 2 kB each. Every one needed a genuine chip's signature first.
const MAX_FROM_HOSTS: usize = 20_000;
/// Of which one chip may have this many: one per TCB it ever had.
const MAX_FROM_HOSTS_PER_CHIP: usize = 16;

/// Where a piece came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An admin's file.
    Import(String),
    /// AMD's key server, or its mirror.
    KeyServer,
    /// Beside evidence that was accepted.
    Host,
}

impl Source {
    /// As stored and shown.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Import(admin) => format!("import by {admin}"),
            Self::KeyServer => "key server".to_owned(),
            Self::Host => HOST.to_owned(),
        }
    }
}

const HOST: &str = "host";

/// A piece and its origin.
#[derive(Debug)]
pub struct Kept {
    /// The piece.
    pub piece: Piece,
    /// See [`Source::text`].
    pub source: String,
    /// Unix seconds.
    pub added_at: u64,
}

/// What putting a piece on the shelf changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there now: this row is to be stored, and these are to be dropped.
    New {
        /// To store.
        row: CollateralRow,
        /// Kind, family and key of what it makes superfluous.
        drop: Vec<(CollateralKind, Family, String)>,
    },
    /// The same or a better one was there.
    Known,
    /// A list that is older than the one that is there.
    Older {
        /// thisUpdate of the newest.
        newest: UnixTime,
    },
    /// A host's, and there is no room for more of those.
    Full,
}

/// The shelf.
#[derive(Debug, Default)]
pub struct Shelf {
    vceks: HashMap<ChipTcb, Arc<Kept>>,
    vleks: BTreeMap<(Family, String), (TcbVersion, Arc<Kept>)>,
    issuers: HashMap<Vec<u8>, Arc<Kept>>,
    lists: BTreeMap<Family, Vec<Arc<Kept>>>,
    collateral: Arc<Collateral>,
    from_hosts: usize,
    from_hosts_per_chip: HashMap<Vec<u8>, usize>,
}

impl Shelf {
    /// Takes a verified piece in, unless what is there is as good.
    pub fn put(&mut self, piece: Piece, source: &str, now: u64) -> Put {
        let Some((kind, key)) = piece.row_key() else { return Put::Known };
        let row = CollateralRow { kind, family: piece.family(), key, der: piece.der.clone(), source: source.to_owned(), added_at: now };
        let what = piece.what.clone();
        let kept = Arc::new(Kept { piece, source: source.to_owned(), added_at: now });
        let drop = match what {
            What::Root(_) => return Put::Known,
            What::Crl(_) => return self.put_list(kept, row),
            What::Vcek(key) => {
                if self.vceks.get(&key).is_some_and(|there| there.is_as_good(&kept)) {
                    return Put::Known;
                }
                if source == HOST && !self.room_for_host(&key) {
                    return Put::Full;
                }
                let old = self.vceks.insert(key.clone(), Arc::clone(&kept));
                self.count_hosts(key.hwid(), old.as_deref(), &kept);
                Vec::new()
            }
            What::Vlek { family, tcb, .. } => {
                if self.vleks.get(&(family, row.key.clone())).is_some_and(|(_, there)| there.is_as_good(&kept)) {
                    return Put::Known;
                }
                // A host's VLEK is its provider's, and one of few: it counts as one chip's.
                if source == HOST && self.vleks.len() >= MAX_FROM_HOSTS_PER_CHIP * Family::ALL.len() {
                    return Put::Full;
                }
                self.vleks.insert((family, row.key.clone()), (tcb, kept));
                Vec::new()
            }
            What::Issuer { name, .. } => {
                if self.issuers.get(&name).is_some_and(|there| there.is_as_good(&kept)) {
                    return Put::Known;
                }
                self.issuers.insert(name, kept);
                Vec::new()
            }
        };
        Put::New { row, drop }
    }

    /// What any list of a family has revoked stays revoked, here and after a restart: a list goes only if its successor says as much.
    fn put_list(&mut self, kept: Arc<Kept>, row: CollateralRow) -> Put {
        let What::Crl(list) = &kept.piece.what else { return Put::Known };
        let lists = self.lists.entry(row.family).or_default();
        if lists.iter().any(|there| there.piece.der == kept.piece.der) {
            return Put::Known;
        }
        let mut collateral = Collateral::clone(&self.collateral);
        let added = collateral.add((**list).clone());
        if let (coffer_verify::Added::Older, Some(newest)) = (added, self.collateral.newest(row.family)) {
            if list.crl().revoked().iter().all(|serial| self.collateral.revokes(row.family, serial)) {
                return Put::Older { newest: newest.crl().this_update() };
            }
            // A root numbers its lists for VCEKs and for VLEKs as it likes: one that says something new counts beside the newest.
            lists.push(Arc::clone(&kept));
            self.collateral = Arc::new(collateral);
            return Put::New { row, drop: Vec::new() };
        }
        let revoked: BTreeSet<_> = list.crl().revoked().iter().collect();
        let superfluous = |there: &Arc<Kept>| match &there.piece.what {
            What::Crl(old) => old.crl().revoked().iter().all(|serial| revoked.contains(serial)),
            _ => false,
        };
        let (gone, stay): (Vec<_>, Vec<_>) = lists.drain(..).partition(superfluous);
        *lists = stay;
        lists.push(Arc::clone(&kept));
        self.collateral = Arc::new(collateral);
        let drop = gone.iter().filter_map(|there| there.piece.row_key().map(|(kind, key)| (kind, row.family, key))).collect();
        Put::New { row, drop }
    }

    /// Puts back what lay in the database, whatever its order: an older list beside a newer one still revokes.
    pub fn restore(&mut self, piece: Piece, source: &str, added_at: u64) {
        if let What::Crl(list) = &piece.what {
            Arc::make_mut(&mut self.collateral).add((**list).clone());
            let kept = Kept { source: source.to_owned(), added_at, piece };
            self.lists.entry(kept.piece.family()).or_default().push(Arc::new(kept));
        } else {
            self.put(piece, source, added_at);
        }
    }

    fn room_for_host(&self, key: &ChipTcb) -> bool {
        let of_chip = self.from_hosts_per_chip.get(key.hwid()).copied().unwrap_or(0);
        self.from_hosts < MAX_FROM_HOSTS && of_chip < MAX_FROM_HOSTS_PER_CHIP
    }

    fn count_hosts(&mut self, chip: &[u8], old: Option<&Kept>, new: &Kept) {
        if old.is_some_and(|old| old.source == HOST) {
            self.from_hosts -= 1;
            if let Some(count) = self.from_hosts_per_chip.get_mut(chip) {
                *count -= 1;
            }
        }
        if new.source == HOST {
            self.from_hosts += 1;
            *self.from_hosts_per_chip.entry(chip.to_vec()).or_default() += 1;
        }
    }

    /// The certificate of the key that made a report like this, if exactly one is known.
    ///
    /// A VCEK by family, chip and reported TCB. A report of a VLEK names no provider: if two providers' keys fit its family and TCB,
    /// none is taken, and the host has to send its own.
    #[must_use]
    pub fn vek(&self, evidence: &SnpEvidence) -> Option<&Arc<Kept>> {
        let fields = evidence.report.fields();
        if fields.key_info.signing_key() != SigningKey::Vlek {
            return ChipTcb::of_report(fields).iter().find_map(|key| self.vceks.get(key));
        }
        let family = Family::of_cpuid(fields.cpuid?)?;
        let mut fits = self.vleks.iter().filter(|((of, _), (tcb, _))| *of == family && *tcb == fields.reported_tcb);
        match (fits.next(), fits.next()) {
            (Some((_, (_, kept))), None) => Some(kept),
            _ => None,
        }
    }

    /// An intermediate by the DER of its name.
    #[must_use]
    pub fn issuer(&self, name: &[u8]) -> Option<&Arc<Kept>> {
        self.issuers.get(name)
    }

    /// The revocation lists.
    #[must_use]
    pub fn collateral(&self) -> Arc<Collateral> {
        Arc::clone(&self.collateral)
    }

    /// Families of which anything is known.
    #[must_use]
    pub fn families(&self) -> BTreeSet<Family> {
        let vceks = self.vceks.keys().map(ChipTcb::family);
        let vleks = self.vleks.keys().map(|(family, _)| *family);
        let issuers = self.issuers.values().map(|kept| kept.piece.family());
        vceks.chain(vleks).chain(issuers).chain(self.lists.keys().copied()).collect()
    }

    /// The newest list of a family, with its origin.
    #[must_use]
    pub fn newest_list(&self, family: Family) -> Option<&Arc<Kept>> {
        let newest = self.collateral.newest(family)?;
        self.lists.get(&family)?.iter().find(|kept| kept.piece.der == newest.crl().as_der())
    }

    /// Everything but lists of a family.
    pub fn of_family(&self, family: Family) -> impl Iterator<Item = &Arc<Kept>> {
        let vleks = self.vleks.values().map(|(_, kept)| kept);
        self.vceks.values().chain(vleks).chain(self.issuers.values()).filter(move |kept| kept.piece.family() == family)
    }
}

impl Kept {
    /// Whether a newcomer under the same key adds nothing.
    fn is_as_good(&self, newcomer: &Self) -> bool {
        self.piece.der == newcomer.piece.der || (newcomer.source == HOST && self.source != HOST) || self.outlives(newcomer)
    }

    fn outlives(&self, newcomer: &Self) -> bool {
        self.piece.not_after >= newcomer.piece.not_after && newcomer.source == HOST
    }

    /// As it lies beside evidence.
    #[must_use]
    pub fn entry(&self, kind: CertKind) -> CertEntry {
        CertEntry { kind, data: self.piece.der.clone() }
    }
}

/// How evidence labels the certificate of the key that signs.
#[must_use]
pub const fn label(kind: VekKind) -> CertKind {
    match kind {
        VekKind::Vcek => CertKind::Vcek,
        VekKind::Vlek => CertKind::Vlek,
    }
}
