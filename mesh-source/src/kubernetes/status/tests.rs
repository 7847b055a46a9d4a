use std::time::Duration;

use tokio::time::{Instant, advance};

use super::{Budget, Rate};

#[tokio::test(start_paused = true)]
async fn a_budget_is_spent_and_regained() {
    let start = Instant::now();
    let mut budget = Budget { rate: Rate { per_second: 10, burst: 3 }, left: 3000, since: start };
    for _ in 0..3 {
        assert_eq!(budget.next(), start);
        budget.spend();
    }
    assert_eq!(budget.next(), start + Duration::from_millis(100));
    advance(Duration::from_millis(60)).await;
    assert_eq!(budget.next(), start + Duration::from_millis(100));
    advance(Duration::from_secs(60)).await;
    // Rest is rewarded, but not for ever.
    for _ in 0..3 {
        assert_eq!(budget.next(), Instant::now());
        budget.spend();
    }
    assert!(budget.next() > Instant::now());
}
