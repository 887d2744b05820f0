//! Who holds on to a listener's places in silence shuts out nobody.

use std::collections::VecDeque;
use std::net::SocketAddr;

use transport::Result;
use transport::places::{Place, Places};

fn from(last: u8) -> SocketAddr {
    ([192, 0, 2, last], 5060).into()
}

/// Whether it is not held any more; it is free afterwards.
async fn is_lost(place: Place) -> bool {
    let never = std::future::pending::<Result<()>>();
    tokio::select! {
        biased;
        lost = place.during(never) => lost.is_err(),
        () = std::future::ready(()) => false,
    }
}

#[tokio::test]
async fn whoever_holds_most_gives_up_its_oldest() {
    let places = Places::new(4);
    let genuine = places.take(from(1));
    let oldest = places.take(from(66));
    let mut others: Vec<Place> = (0..2).map(|_| places.take(from(66))).collect();
    let newcomer = places.take(from(2));
    assert!(is_lost(oldest).await);
    // However many more come from there, they take places from one another only.
    for _ in 0..100 {
        others.push(places.take(from(66)));
    }
    for other in others.drain(..100) {
        assert!(is_lost(other).await);
    }
    for held in others.into_iter().chain([genuine, newcomer]) {
        assert!(!is_lost(held).await);
    }
}

#[tokio::test]
async fn of_many_addresses_the_oldest_gives_way() {
    let places = Places::new(3);
    let mut held: VecDeque<Place> = (1..=3).map(|last| places.take(from(last))).collect();
    for last in 4..50 {
        held.push_back(places.take(from(last)));
        assert!(is_lost(held.pop_front().expect("the oldest")).await);
    }
    // What is given back is free: nobody gives way.
    held.truncate(2);
    held.push_back(places.take(from(50)));
    for held in held {
        assert!(!is_lost(held).await);
    }
}

#[tokio::test]
async fn who_says_who_it_is_needs_no_place_any_more() {
    let places = Places::new(1);
    let first = places.take(from(1));
    assert_eq!(first.during(std::future::ready(Ok(7))).await.expect("in time"), 7);
    let second = places.take(from(2));
    assert!(!is_lost(second).await);
}
