//! The sockets against one another on loopback, on ports that the system chooses.

use std::net::SocketAddr;
use std::time::Duration;

use transport::tcp::{Connection, Listener, Read};
use transport::udp::{Options, ReceiveBatch, SendBatch, UdpSocket};
use transport::{Fault, Full, InBuffer, OutBuffer, ucf_link};
use ucf::greeting::End;
use ucf::token::{Key, Keyring};
use ucf::wire::{Body, Confirm, Frame, Hello, Ownership};

const PATIENCE: Duration = Duration::from_secs(10);

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("done within the test's patience")
}

async fn datagrams_arrive_whole_and_in_order(address: SocketAddr, options: Options) {
    let receiver = UdpSocket::bind(address, options).unwrap();
    let sender = UdpSocket::bind(address, options).unwrap();
    let mut out = SendBatch::new();
    // Beyond one batch, with an empty and a large one among them.
    let expected: Vec<Vec<u8>> = (0..150usize)
        .map(|n| vec![n as u8; [0, 1, 700, 20_000][n % 4]])
        .collect();
    for datagram in &expected {
        out.push(receiver.local_addr(), datagram);
    }
    assert!(sender.try_send(&mut out));
    assert_eq!(out.take_dropped(), 0);

    let mut seen = Vec::new();
    let mut batch = ReceiveBatch::new();
    while seen.len() < expected.len() {
        within(receiver.receive(&mut batch)).await.unwrap();
        for (from, bytes) in batch.iter() {
            assert_eq!(from, sender.local_addr());
            seen.push(bytes.to_vec());
        }
    }
    assert!(seen == expected);
    receiver.try_receive(&mut batch).unwrap();
    assert!(batch.is_empty());
}

#[tokio::test]
async fn udp_moves_many_datagrams_per_call() {
    datagrams_arrive_whole_and_in_order(any(), Options::default()).await;
    datagrams_arrive_whole_and_in_order("[::1]:0".parse().unwrap(), Options::default()).await;
}

#[tokio::test]
async fn a_socket_that_leaves_its_group_keeps_what_it_has_gets_nothing_more_and_still_sends() {
    let first = UdpSocket::bind(any(), Options::default()).unwrap();
    let second = UdpSocket::bind(first.local_addr(), Options::default()).unwrap();
    let senders: Vec<_> = (0..64).map(|_| std::net::UdpSocket::bind(any()).unwrap()).collect();
    let send_all = |word: &[u8]| {
        for sender in &senders {
            sender.send_to(word, first.local_addr()).unwrap();
        }
    };
    send_all(b"before");
    first.leave_group().unwrap();
    send_all(b"after");
    let received = |socket: &UdpSocket| {
        let mut words = Vec::new();
        let mut batch = ReceiveBatch::new();
        loop {
            socket.try_receive(&mut batch).unwrap();
            if batch.is_empty() {
                return words;
            }
            words.extend(batch.iter().map(|(_, word)| word.to_vec()));
        }
    };
    let (by_first, by_second) = (received(&first), received(&second));
    assert!(!by_first.is_empty() && by_first.iter().all(|word| word == b"before"));
    assert_eq!(by_first.len() + by_second.len(), 2 * senders.len(), "none is lost");

    let mut out = SendBatch::new();
    out.push(senders[0].local_addr().unwrap(), b"answer");
    assert!(first.try_send(&mut out) && out.take_dropped() == 0);
    let mut buffer = [0; 16];
    let (length, from) = senders[0].recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (&b"answer"[..], first.local_addr()));
}

#[tokio::test]
async fn udp_moves_one_datagram_per_call_where_the_kernel_refuses_batches() {
    datagrams_arrive_whole_and_in_order(
        any(),
        Options {
            single: true,
            ..Options::default()
        },
    )
    .await;
}

#[tokio::test]
async fn a_refused_datagram_does_not_stop_the_others() {
    for single in [false, true] {
        let options = Options {
            single,
            ..Options::default()
        };
        let receiver = UdpSocket::bind(any(), options).unwrap();
        let sender = UdpSocket::bind(any(), options).unwrap();
        let mut out = SendBatch::new();
        out.push(receiver.local_addr(), b"one");
        out.push(receiver.local_addr(), &vec![0; 70_000]); // longer than UDP can carry
        out.push("127.0.0.1:0".parse().unwrap(), b"to nowhere");
        out.push(receiver.local_addr(), b"two");
        assert!(sender.try_send(&mut out));
        assert_eq!(out.take_dropped(), 2);
        let mut batch = ReceiveBatch::new();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            within(receiver.receive(&mut batch)).await.unwrap();
            seen.extend(batch.iter().map(|(_, bytes)| bytes.to_vec()));
        }
        assert_eq!(seen, [b"one", b"two"]);
    }
}

#[tokio::test]
async fn an_address_is_shared_on_purpose_only() {
    let first = UdpSocket::bind(any(), Options::default()).unwrap();
    UdpSocket::bind(first.local_addr(), Options::default()).unwrap();
    let error = UdpSocket::bind(
        first.local_addr(),
        Options {
            share: false,
            ..Options::default()
        },
    )
    .unwrap_err();
    assert_eq!(error.fault(), Fault::Local);
    assert_eq!(error.io_kind(), Some(std::io::ErrorKind::AddrInUse));
    assert!(
        error.to_string().contains(&format!("udp:{}", first.local_addr())),
        "{error}"
    );

    let first = Listener::bind(any(), true).unwrap();
    Listener::bind(first.local_addr(), true).unwrap();
    assert!(Listener::bind(first.local_addr(), false).is_err());
}

async fn pair() -> (Connection, Connection) {
    let listener = Listener::bind(any(), false).unwrap();
    let address = listener.local_addr();
    let (near, far) = within(async { tokio::join!(Connection::connect(address, PATIENCE), listener.accept()) }).await;
    (near.unwrap(), far.unwrap())
}

#[tokio::test]
async fn tcp_carries_bytes_in_order_and_tells_the_end() {
    let (near, far) = pair().await;
    assert_eq!(near.local_addr(), far.peer_addr());
    let mut out = OutBuffer::new(1 << 20);
    for n in 0..50_000u32 {
        out.push(&n.to_be_bytes()).unwrap();
    }
    let expected = out.pending().to_vec();
    let writing = async {
        near.write(&mut out).await.unwrap();
        drop(near);
    };
    let reading = async {
        let mut input = InBuffer::new();
        while far.read(&mut input).await.unwrap() {}
        input.data().to_vec()
    };
    let ((), seen) = within(async { tokio::join!(writing, reading) }).await;
    assert!(seen == expected);
}

#[tokio::test]
async fn a_peer_that_does_not_read_fills_the_bound_and_nothing_else() {
    let (near, far) = pair().await;
    let mut out = OutBuffer::new(256 << 10);
    let message = vec![7; 10_000];
    let mut pushed = 0;
    loop {
        if out.push(&message) == Err(Full) {
            break;
        }
        pushed += message.len();
        near.try_write(&mut out).unwrap();
    }
    assert!(out.len() <= 256 << 10);
    // It reads after all: everything that was accepted arrives.
    let reading = async {
        let mut input = InBuffer::new();
        while input.data().len() < pushed {
            assert!(far.read(&mut input).await.unwrap());
        }
    };
    within(async { tokio::join!(async { near.write(&mut out).await.unwrap() }, reading) }).await;
}

#[tokio::test]
async fn what_has_arrived_can_be_read_before_the_runtime_is_told() {
    let (near, far) = pair().await;
    let mut input = InBuffer::new();
    assert_eq!(far.try_read(&mut input).unwrap(), Read::Nothing);
    assert_eq!(far.read_now(&mut input).unwrap(), Read::Nothing);
    let mut out = OutBuffer::new(100);
    out.push(b"announced").unwrap();
    assert!(near.try_write(&mut out).unwrap());
    // On loopback a write has arrived when it returns.
    assert_eq!(far.read_now(&mut input).unwrap(), Read::Some(9));
    assert_eq!(input.data(), b"announced");
    drop(near);
    assert_eq!(far.read_now(&mut input).unwrap(), Read::End);
}

#[tokio::test]
async fn nobody_listening_is_the_networks_fault() {
    let address = {
        let listener = Listener::bind(any(), false).unwrap();
        listener.local_addr()
    };
    let error = within(Connection::connect(address, PATIENCE)).await.unwrap_err();
    assert!(error.is_retryable());
    let (near, far) = pair().await;
    let mut input = InBuffer::new();
    assert_eq!(near.try_read(&mut input).unwrap(), Read::Nothing);
    drop(far);
    assert!(!within(near.read(&mut input)).await.unwrap());
}

fn ring(id: u8) -> Keyring {
    Keyring::new(Key { id, secret: [id; 16] }, &[], 8)
}

fn greeting(cluster: &str) -> Hello {
    Hello {
        version: ucf_link::VERSION,
        cluster: cluster.into(),
        name: "one".into(),
        ..Hello::default()
    }
}

#[tokio::test]
async fn ucf_peers_greet_and_exchange_frames() {
    let (near, far) = pair().await;
    let mut near_input = InBuffer::new();
    let mut far_input = InBuffer::new();
    let ring = ring(1);
    let (first, second) = within(async {
        tokio::join!(
            ucf_link::hello(&near, &mut near_input, &ring, End::Opened, greeting("demo")),
            ucf_link::hello(&far, &mut far_input, &ring, End::Accepted, greeting("demo"))
        )
    })
    .await;
    for said in [first.unwrap(), second.unwrap()] {
        let proof = said.proof.clone();
        assert_eq!(
            said,
            Hello {
                proof,
                ..greeting("demo")
            }
        );
    }

    let large = Ownership {
        owner: 1,
        partitions: (0..65_536).collect(),
        epochs: vec![9; 65_536],
        ..Default::default()
    };
    let mut out = OutBuffer::new(ucf_link::LINK_BOUND);
    for upto in 1..=100 {
        ucf_link::push(
            Body::Confirm(Confirm {
                upto,
                ..Confirm::default()
            }),
            &mut out,
        )
        .unwrap();
    }
    ucf_link::push(Body::Ownership(large.clone()), &mut out).unwrap();
    let reading = async {
        for upto in 1..=100 {
            let body = ucf_link::next(&far, &mut far_input).await.unwrap();
            assert_eq!(
                body,
                Some(Body::Confirm(Confirm {
                    upto,
                    ..Confirm::default()
                }))
            );
        }
        assert_eq!(
            ucf_link::next(&far, &mut far_input).await.unwrap(),
            Some(Body::Ownership(large))
        );
        assert_eq!(ucf_link::next(&far, &mut far_input).await.unwrap(), None);
    };
    let writing = async {
        near.write(&mut out).await.unwrap();
        drop(near);
    };
    within(async { tokio::join!(writing, reading) }).await;
}

#[tokio::test]
async fn a_ucf_peer_of_another_cluster_is_refused() {
    let (near, far) = pair().await;
    let (mut a, mut b) = (InBuffer::new(), InBuffer::new());
    let ring = ring(1);
    let (first, second) = within(async {
        tokio::join!(
            ucf_link::hello(&near, &mut a, &ring, End::Opened, greeting("demo")),
            ucf_link::hello(&far, &mut b, &ring, End::Accepted, greeting("other"))
        )
    })
    .await;
    assert_eq!(first.unwrap_err().fault(), Fault::Peer);
    assert_eq!(second.unwrap_err().fault(), Fault::Peer);
}

#[tokio::test]
async fn a_ucf_peer_with_another_key_is_a_stranger_to_both() {
    let (near, far) = pair().await;
    let (mut a, mut b) = (InBuffer::new(), InBuffer::new());
    let (ours, theirs) = (ring(1), ring(2));
    let (first, second) = within(async {
        tokio::join!(
            ucf_link::hello(&near, &mut a, &ours, End::Opened, greeting("demo")),
            ucf_link::hello(&far, &mut b, &theirs, End::Accepted, greeting("demo"))
        )
    })
    .await;
    let error = first.unwrap_err();
    assert!(error.to_string().contains("SIPCLUSTER_KEY"), "{error}");
    assert_eq!(
        (error.fault(), second.unwrap_err().fault()),
        (Fault::Stranger, Fault::Stranger)
    );
}

#[tokio::test]
async fn a_ucf_peer_that_says_back_what_it_hears_or_sends_much_is_refused() {
    let (near, far) = pair().await;
    let mut input = InBuffer::new();
    let ring = ring(1);
    let echo = async {
        let mut heard = InBuffer::new();
        while let Ok(true) = far.read(&mut heard).await {
            let mut back = OutBuffer::new(1 << 20);
            back.push(heard.data()).unwrap();
            heard.consume(heard.data().len());
            far.write(&mut back).await.unwrap();
        }
    };
    let greeted = within(async {
        tokio::select! {
            greeted = ucf_link::hello(&near, &mut input, &ring, End::Opened, greeting("demo")) => greeted,
            () = echo => unreachable!("the other side is open"),
        }
    })
    .await;
    assert_eq!(greeted.unwrap_err().fault(), Fault::Stranger);

    let (near, far) = pair().await;
    let mut large = OutBuffer::new(1 << 20);
    large.push(&[0, 0, 0x80, 0]).unwrap();
    within(far.write(&mut large)).await.unwrap();
    let greeted = within(ucf_link::hello(
        &near,
        &mut input,
        &ring,
        End::Accepted,
        greeting("demo"),
    ))
    .await;
    assert_eq!(
        greeted.unwrap_err().fault(),
        Fault::Peer,
        "before it waits for all of it"
    );
}

#[test]
fn frames_of_the_future_are_skipped_and_rubbish_is_the_peers_fault() {
    let mut input = InBuffer::new();
    let mut put = |bytes: &[u8]| {
        input.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        input.filled(bytes.len());
    };
    put(&[0, 0, 0, 4, 0xfa, 0x07, 1, 1]); // field 127, length-delimited: unknown here
    let mut known = OutBuffer::new(100);
    ucf_link::push(
        Body::Confirm(Confirm {
            upto: 3,
            ..Confirm::default()
        }),
        &mut known,
    )
    .unwrap();
    put(known.pending());
    put(&[0xff, 0xff, 0xff, 0xff]);
    assert_eq!(
        ucf_link::take(&mut input).unwrap(),
        Some(Body::Confirm(Confirm {
            upto: 3,
            ..Confirm::default()
        }))
    );
    assert_eq!(ucf_link::take(&mut input).unwrap_err().fault(), Fault::Peer);
    assert_eq!(Frame::default().body, None);
}
