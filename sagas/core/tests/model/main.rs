mod bus;
mod engine;
mod explorer;
mod one_order;
mod one_piece;
mod payment;
mod product;

#[allow(clippy::disallowed_methods)]
fn go<M: explorer::Proven>(n: &str, m: M) {
    let t = std::time::Instant::now();
    let e = explorer::explore(&m);
    println!("{n} {} {} {} {:?}", e.states, e.moves, e.depth, t.elapsed());
    if let Some(f) = e.finding { println!("{}", f.dialogue); }
}
fn main() {
    go("1", one_order::OneOrder { patience: engine::Patience { tries_max: 1, stuck_after: 1 }, operator: false });
    go("2/2", one_piece::OnePiece::<2> { pieces: 1 });
    go("3/2", bus::Bus { rows: 2, waiting: 3, broker_loses: false });
    go("3/2 lose", bus::Bus { rows: 2, waiting: 3, broker_loses: true });
    go("3/3", bus::Bus { rows: 3, waiting: 3, broker_loses: false });
    go("2/3", one_piece::OnePiece::<3> { pieces: 1 });
    go("3/3 lose", bus::Bus { rows: 3, waiting: 3, broker_loses: true });
}
