//! The laws over the order saga, over a second saga that knows nothing of orders, and over tables that break them.

use skald_saga::{Decision, Invariant, Kind, Outbound, Patience, Saga, Step, Why, Word, laws, order::OrderSaga};

#[test]
fn the_order_saga_keeps_the_laws() {
    assert_eq!(laws::hold::<OrderSaga>(), 1_712);
}

#[test]
fn a_trip_keeps_the_laws() {
    assert_eq!(laws::hold::<Trip<SOUND>>(), 338);
}

#[track_caller]
fn breaks<const FLAW: u8>(invariant: Invariant, words: &str) {
    let report = laws::check::<Trip<FLAW>>();
    let first = report.broken.first().expect("the laws refuse this table");
    assert_eq!(first.invariant, invariant, "{}", first.dialogue);
    assert!(first.dialogue.contains(words), "{}", first.dialogue);
}

#[test]
fn a_refused_hotel_that_keeps_the_flight_is_found() {
    breaks::<KEEPS_FLIGHT>(Invariant::CleanOrComplete, "it has ended in NotBooked, and this is left: book_flight");
}

#[test]
fn an_unanswered_hotel_that_is_taken_for_refused_is_found() {
    breaks::<UNKNOWN_IS_REFUSED>(Invariant::CleanOrComplete, "this is left: book_hotel");
}

#[test]
fn a_late_reply_that_is_called_illegal_is_found() {
    breaks::<LATE_IS_ILLEGAL>(Invariant::NoneIllegal, "nobody asked for it in CancellingHotel");
}

#[test]
fn an_answer_that_is_not_heard_is_found() {
    breaks::<DEAF>(Invariant::TableSound, "ticket: Ticketed does not move it on");
}

#[test]
fn an_end_that_is_left_again_is_found() {
    breaks::<RISES>(Invariant::CleanOrComplete, "hears FlightBooked: NotBooked -> BookingHotel");
}

#[test]
fn a_compensation_that_is_given_up_is_found() {
    breaks::<GIVES_UP>(Invariant::TableSound, "cancel_flight: its row says AskForEver, and the match does not");
}

#[test]
fn a_step_that_is_never_given_up_but_by_the_match_is_found() {
    breaks::<IMPATIENT>(Invariant::TableSound, "ticket: its row says AskForEver, and the match does not");
}

#[test]
fn a_wait_that_two_answers_do_not_end_is_found() {
    breaks::<CIRCLES>(Invariant::CanEnd, "hears HotelRefused: BookingHotel -> BookingFlight");
}

#[test]
fn the_first_run_that_breaks_a_law_is_told() {
    let told = std::panic::catch_unwind(laws::hold::<Trip<KEEPS_FLIGHT>>).expect_err("the table is broken");
    let told = told.downcast_ref::<String>().expect("a panic with words");
    assert!(
        told.contains("runs of the saga trip break a law:\ntrip, book_hotel is refused, Once:\n  asks flight.Book"),
        "{told}"
    );
}

#[test]
fn each_trouble_and_each_delivery_is_as_it_was_looked_at() {
    use laws::{Delivery, Trouble};
    let hotel = 1;
    let once = [Trouble::None, Trouble::Refused(hotel), Trouble::Unheard(hotel), Trouble::Late(hotel), Trouble::Unheard(2)];
    let back = [
        Delivery::Twice,
        Delivery::CompensationTwice,
        Delivery::CrashAfter(2),
        Delivery::Reordered,
        Delivery::DeadlineBefore,
        Delivery::DeadlineWith(0),
        Delivery::DeadlineAfter,
    ];
    let runs = once.map(|trouble| (trouble, Delivery::Once)).into_iter();
    let runs = runs.chain(back.map(|delivery| (Trouble::Refused(hotel), delivery)));
    let told: Vec<_> = runs.map(|(trouble, delivery)| laws::tell::<Trip<SOUND>>(trouble, delivery).expect("a law")).collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_run_in_which_a_person_asks_is_as_it_was_looked_at() {
    let asked = laws::Delivery::Asked(2, skald_saga::order::Input::CompensationForced);
    insta::assert_snapshot!(laws::tell::<OrderSaga>(laws::Trouble::Late(1), asked).expect("a law"));
}

#[test]
fn a_compensation_past_the_pivot_is_found() {
    breaks::<TAKES_BACK_TICKETS>(Invariant::TableSound, "ticket can be compensated, past the pivot");
}

#[test]
fn two_rows_that_wait_in_one_state_are_found() {
    breaks::<TWO_ROWS>(Invariant::TableSound, "again has two rows");
}

#[test]
fn a_refusal_that_goes_where_done_goes_is_found() {
    breaks::<REFUSED_IS_DONE>(Invariant::TableSound, "book_hotel: refused and done are one");
}

/// What is wrong with a trip's table.
const SOUND: u8 = 0;
const KEEPS_FLIGHT: u8 = 1;
const UNKNOWN_IS_REFUSED: u8 = 2;
const LATE_IS_ILLEGAL: u8 = 3;
const DEAF: u8 = 4;
const RISES: u8 = 5;
const GIVES_UP: u8 = 6;
const IMPATIENT: u8 = 7;
const CIRCLES: u8 = 8;
const TAKES_BACK_TICKETS: u8 = 9;
const TWO_ROWS: u8 = 10;
const REFUSED_IS_DONE: u8 = 11;

/// A flight, a hotel, then the tickets, from where there is no way back.
struct Trip<const FLAW: u8>;

/// The words of a closed set.
macro_rules! words {
    ($name:ident { $($variant:ident),* }) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        enum $name { $($variant),* }

        impl Word for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),* }
            }
        }
    };
}

words!(At { BookingFlight, BookingHotel, Ticketing, CancellingHotel, CancellingFlight, Booked, NotBooked });
words!(Heard {
    FlightBooked,
    FlightRefused,
    HotelBooked,
    HotelRefused,
    Ticketed,
    HotelCancelled,
    FlightCancelled,
    Deadline,
    LastDeadline
});
words!(Because { Unwanted });

#[allow(clippy::too_many_arguments, reason = "a row of the table has eight columns")]
const fn step(
    name: &'static str,
    state: At,
    asks: &'static str,
    done: Heard,
    refused: Option<Heard>,
    unanswered: Patience,
    compensation: Option<&'static str>,
    kind: Kind,
) -> Step<At, Heard> {
    Step { name, state, asks, done, refused, unanswered, compensation, kind }
}

#[rustfmt::skip]
const STEPS: [Step<At, Heard>; 5] = [
    step("book_flight",   At::BookingFlight,    "flight.Book",   Heard::FlightBooked,    Some(Heard::FlightRefused), Patience::AskThenCompensate, Some("cancel_flight"), Kind::Compensable),
    step("book_hotel",    At::BookingHotel,     "hotel.Book",    Heard::HotelBooked,     Some(Heard::HotelRefused),  Patience::AskThenCompensate, Some("cancel_hotel"),  Kind::Compensable),
    step("ticket",        At::Ticketing,        "flight.Ticket", Heard::Ticketed,        None,                       Patience::AskForEver,        None,                  Kind::Pivot),
    step("cancel_hotel",  At::CancellingHotel,  "hotel.Cancel",  Heard::HotelCancelled,  None,                       Patience::AskForEver,        None,                  Kind::Compensation),
    step("cancel_flight", At::CancellingFlight, "flight.Cancel", Heard::FlightCancelled, None,                       Patience::AskForEver,        None,                  Kind::Compensation),
];

const WITH_TICKETS_BACK: [Step<At, Heard>; 5] = {
    let mut steps = STEPS;
    steps[2].compensation = Some("cancel_hotel");
    steps
};

const WITH_TWO_ROWS: [Step<At, Heard>; 5] = {
    let mut steps = STEPS;
    steps[1] = STEPS[0];
    steps[1].name = "again";
    steps
};

impl<const FLAW: u8> Saga for Trip<FLAW> {
    const NAME: &'static str = "trip";
    const DEFINITION: u16 = 1;
    const START: At = At::BookingFlight;
    const STEPS: &'static [Step<At, Heard>] = match FLAW {
        TAKES_BACK_TICKETS => &WITH_TICKETS_BACK,
        TWO_ROWS => &WITH_TWO_ROWS,
        _ => &STEPS,
    };
    const DEADLINE_PASSED: Heard = Heard::Deadline;
    const LAST_DEADLINE_PASSED: Heard = Heard::LastDeadline;

    type State = At;
    type Input = Heard;
    type Reason = Because;
    type Context = ();

    fn decide(state: At, input: Heard) -> Decision<At, Because> {
        let go = |to| Decision::Moved { to, reason: None };
        let back = |to| Decision::Moved { to, reason: Some(Because::Unwanted) };
        match (state, input) {
            (At::BookingHotel, Heard::HotelRefused) if FLAW == KEEPS_FLIGHT => back(At::NotBooked),
            (At::BookingHotel, Heard::HotelRefused) if FLAW == CIRCLES => back(At::BookingFlight),
            (At::BookingHotel, Heard::HotelRefused) if FLAW == REFUSED_IS_DONE => go(At::Ticketing),
            (At::BookingHotel, Heard::LastDeadline) if FLAW == UNKNOWN_IS_REFUSED => back(At::CancellingFlight),
            (At::CancellingHotel, Heard::HotelBooked) if FLAW == LATE_IS_ILLEGAL => Decision::Illegal,
            (At::Ticketing, Heard::Ticketed) if FLAW == DEAF => Decision::Ignored(Why::Late),
            (At::Ticketing, Heard::LastDeadline) if FLAW == IMPATIENT => go(At::Booked),
            (At::NotBooked, Heard::FlightBooked) if FLAW == RISES => go(At::BookingHotel),
            (At::CancellingFlight, Heard::LastDeadline) if FLAW == GIVES_UP => go(At::NotBooked),

            (At::BookingFlight, Heard::FlightBooked) => go(At::BookingHotel),
            (At::BookingFlight, Heard::FlightRefused) => back(At::NotBooked),
            (At::BookingFlight, Heard::LastDeadline) => back(At::CancellingFlight),
            (At::BookingHotel, Heard::HotelBooked) => go(At::Ticketing),
            (At::BookingHotel, Heard::HotelRefused) => back(At::CancellingFlight),
            (At::BookingHotel, Heard::LastDeadline) => back(At::CancellingHotel),
            (At::Ticketing, Heard::Ticketed) => go(At::Booked),
            (At::CancellingHotel, Heard::HotelCancelled) => go(At::CancellingFlight),
            (At::CancellingFlight, Heard::FlightCancelled) => go(At::NotBooked),
            (At::Booked | At::NotBooked, Heard::Deadline | Heard::LastDeadline) => Decision::Ignored(Why::Stale),
            (_, Heard::Deadline | Heard::LastDeadline) => go(state),
            _ => Decision::Ignored(Why::Late),
        }
    }

    fn command(_: At, (): &()) -> Option<Outbound> {
        None
    }
}
