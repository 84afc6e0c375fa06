//! One connection of a guest: TLS, its first word, then the lease's conversation or the workload's bytes.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use coffer_token::lease::{ALPN, ALPN_ATTESTED, Answer, Greeting, Hello, Open, Renewal};
use coffer_token::{Jkt, Version1};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::admission::sites::Site;
use crate::admission::{Admitted, Refusal, Shown};
use crate::gate::Gate;
use crate::guests::frames::{WireError, receive, send};
use crate::guests::socket::{Reset, Socket};
use crate::guests::source::Held;
use crate::guests::tunnel;
use crate::leases::Leased;
use crate::reason::Reason;

/// TLS and the first word together: three round trips. Whoever needs longer holds a connection for nothing.
const FIRST_WORD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take to leave; a peer that does not read is not waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last word on a lease connection may take, which says that everything is over already.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection as it was accepted, and what it takes up.
pub struct Arrival {
    /// The connection.
    pub tcp: TcpStream,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// One of all connections.
    pub slot: OwnedSemaphorePermit,
    /// One of those that have not shown a good token.
    pub held: Held,
}

/// How much later than a lease lasts a renewal may come.
const LATE_RENEWAL: Duration = Duration::from_secs(10);

type Stream = TlsStream<Socket>;

/// A guest that has said its first word.
struct Guest {
    stream: Stream,
    reset: Reset,
    jkt: Jkt,
    hello: Hello,
}

/// Serves one connection to its end.
pub async fn serve(gate: Arc<Gate>, arrival: Arrival) {
    let Arrival { tcp, peer, slot: _slot, held } = arrival;
    let guest = match timeout(FIRST_WORD_TIMEOUT, first_word(&gate, tcp)).await {
        Ok(Ok(Some(guest))) => guest,
        nobody => {
            gate.admission.sites.unheard.fetch_add(1, Ordering::Relaxed);
            if let Ok(Err(error)) = nobody {
                tracing::debug!(%peer, %error, "no first word");
            }
            return held.failed(Instant::now());
        }
    };
    let Guest { mut stream, reset, jkt, hello } = guest;
    let what = match hello.open {
        Open::Lease => "lease",
        Open::Tunnel => "tunnel",
    };
    let shown = Shown { token: &hello.token, node: hello.node.as_ref(), jkt, before: None, what };
    let admitted = match gate.admission.admit(shown).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let of_site = refusal.of_site;
            refuse(&mut stream, refusal).await;
            // A site has bounds of its own; those behind the same address are not to pay for it.
            return if of_site { drop(held) } else { held.failed(Instant::now()) };
        }
    };
    let Some(_place) = admitted.site.place(&gate.config.limits) else {
        let refusal = Refusal::of(Reason::SiteConnections);
        note_refused(&admitted.site, &admitted.leased, &refusal, what);
        return refuse(&mut stream, refusal).await;
    };
    drop(held);
    match hello.open {
        Open::Lease => lease(&gate, stream, &reset, admitted).await,
        Open::Tunnel => tunnel(&gate, stream, reset, admitted).await,
    }
}

/// TLS, a greeting for who waits for one, and the first word; `None` for a peer that is well-behaved and still none of ours.
async fn first_word(gate: &Gate, tcp: TcpStream) -> Result<Option<Guest>, WireError> {
    let socket = Socket::new(tcp);
    let reset = socket.reset();
    let mut stream = gate.acceptor.accept(socket).await?;
    let session = stream.get_ref().1;
    let attested = session.alpn_protocol() == Some(ALPN_ATTESTED);
    let ours = attested || session.alpn_protocol() == Some(ALPN);
    let key = session.peer_certificates().and_then(<[_]>::first).and_then(|spki| Jkt::of_p384_spki(spki));
    let (true, Some(jkt)) = (ours, key) else { return Ok(None) };
    if attested {
        send(&mut stream, &Greeting { v: Version1, gate_token: gate.own_token() }).await?;
    }
    match receive::<Hello>(&mut stream).await {
        Ok(Some(hello)) => Ok(Some(Guest { stream, reset, jkt, hello })),
        Ok(None) => Ok(None),
        Err(WireError::Frame(error)) => {
            let refusal = Refusal::with(Reason::Malformed, error);
            gate.admission.refuse_stranger(&refusal, jkt, "hello");
            refuse(&mut stream, refusal).await;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The lease's conversation: renewals and their answers, and at the end why it is over.
async fn lease(gate: &Gate, stream: Stream, reset: &Reset, admitted: Admitted) {
    let Admitted { mut leased, site, proof, lasts } = admitted;
    // No renewal for so long: the guest is gone without a word, or its lease lives on another connection.
    let patience = gate.config.check_frequency + LATE_RENEWAL;
    let (read, mut write) = tokio::io::split(stream);
    if !answer(&mut write, gate.admitted(lasts)).await {
        return;
    }
    let (renewals, mut incoming) = mpsc::channel(1);
    // A task of its own, for a message that is half read must not be lost to the end of the lease, which may come in between.
    let reader = tokio::spawn(read_renewals(read, renewals));
    let refusal = loop {
        let renewal = tokio::select! {
            biased;
            reason = leased.ended() => {
                // The guest's console will show this refusal's id: the log has it too, and `status` the code.
                let refusal = Refusal::of(reason);
                note_refused(&site, &leased, &refusal, "lease");
                break Some(refusal);
            }
            renewal = timeout(patience, incoming.recv()) => renewal.unwrap_or(None),
        };
        match renewal {
            Some(Ok(Renewal { token })) => {
                let shown = Shown { token: &token, node: None, jkt: proof.jkt, before: Some(&proof), what: "renewal" };
                match gate.admission.admit(shown).await {
                    // Where it had ended meanwhile, this is another lease.
                    Ok(renewed) if answer(&mut write, gate.admitted(renewed.lasts)).await => leased = renewed.leased,
                    Ok(_) => break None,
                    Err(refusal) => break Some(refusal),
                }
            }
            Some(Err(())) => {
                let refusal = Refusal::of(Reason::Malformed);
                note_refused(&site, &leased, &refusal, "renewal");
                break Some(refusal);
            }
            None => break None,
        }
    };
    if let Some(refusal) = refusal {
        let told = timeout(LAST_WORD_TIMEOUT, async {
            send(&mut write, &refusal.answer()).await?;
            write.shutdown().await.map_err(WireError::from)
        });
        if !matches!(told.await, Ok(Ok(()))) {
            reset.set();
        }
    }
    reader.abort();
}

async fn read_renewals(mut from: ReadHalf<Stream>, to: mpsc::Sender<Result<Renewal, ()>>) {
    loop {
        let message = match receive::<Renewal>(&mut from).await {
            Ok(Some(renewal)) => Ok(renewal),
            Err(WireError::Frame(_)) => Err(()),
            Ok(None) | Err(WireError::Io(_)) => return,
        };
        let last = message.is_err();
        if to.send(message).await.is_err() || last {
            return;
        }
    }
}

async fn answer(to: &mut WriteHalf<Stream>, answer: Answer) -> bool {
    matches!(timeout(ANSWER_TIMEOUT, send(to, &answer)).await, Ok(Ok(())))
}

/// The workload's bytes, until either side is done or the lease is over.
async fn tunnel(gate: &Gate, mut stream: Stream, reset: Reset, admitted: Admitted) {
    let Admitted { leased, site, lasts, .. } = &admitted;
    // Pinned here, so that it is dropped, and its connections are closed, after `reset` is set and not before.
    let mut carried = pin!(async {
        let upstream = match tunnel::connect(gate, &reset).await {
            Ok(upstream) => upstream,
            Err(error) => {
                let refusal = Refusal::of(Reason::SuperlinkUnreachable);
                tracing::warn!(%error, fleet = gate.config.flower.fleet, "the SuperLink is not reached");
                note_refused(site, leased, &refusal, "tunnel");
                return refuse(&mut stream, refusal).await;
            }
        };
        if matches!(timeout(ANSWER_TIMEOUT, send(&mut stream, &gate.admitted(*lasts))).await, Ok(Ok(()))) {
            tunnel::carry(gate, leased, site, stream, upstream, &reset).await;
        }
    });
    tokio::select! {
        biased;
        reason = leased.ended() => {
            // Dropping what carried ends both connections with RST.
            reset.set();
            site.cuts.fetch_add(1, Ordering::Relaxed);
            let Leased { jkt, instance, .. } = &**leased;
            tracing::info!(site = %site.name, key = %jkt, %instance, code = reason.code(), "connection cut");
        }
        () = &mut carried => {}
    }
}

fn note_refused(site: &Site, leased: &Leased, refusal: &Refusal, what: &str) {
    let now = Instant::now();
    site.told(Some(refusal.reason), now);
    if site.may_log(now) {
        let Leased { jkt, instance, .. } = leased;
        tracing::warn!(site = %site.name, key = %jkt, %instance, what, code = refusal.reason.code(), id = refusal.id, "refused");
    }
}

async fn refuse(stream: &mut Stream, refusal: Refusal) {
    let _ = timeout(ANSWER_TIMEOUT, async {
        send(stream, &refusal.answer()).await?;
        stream.shutdown().await.map_err(WireError::from)
    })
    .await;
}

impl Refusal {
    /// As it is sent.
    fn answer(&self) -> Answer {
        Answer::Refused {
            code: self.reason.code().to_owned(),
            detail: self.detail.clone(),
            id: self.id.clone(),
            retry_after_seconds: self.reason.retry_after_seconds(),
        }
    }
}

impl Gate {
    fn admitted(&self, lasts: Duration) -> Answer {
        Answer::Admitted { lease_seconds: lasts.as_secs(), gate_token: self.own_token() }
    }

    fn own_token(&self) -> Option<String> {
        self.attested.as_ref().and_then(|attested| attested.token())
    }
}
