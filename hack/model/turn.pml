/* turn.pml: opening and closing a ledger of many shards (synchronization: Shut, Reopen).
 *
 * The record says which epoch it is and whether it is open; every shard has a copy, and a write tests the copy of
 * its shard. A turn changes the record and then the shards one by one, so two turns may overlap: OPERATORS of
 * them, each opening or closing. A rank is twice the epoch, and one more when closed: every turn of the record
 * makes it larger (close: +1, open: +1, which is the next epoch).
 *
 * Checked: once a turn has returned and no other has begun since, every shard agrees with the record;
 * and a shard never goes back, by which claims of a closed epoch would come to life again.
 *
 * Mutant C_TURNBACK: a shard takes whatever an operator brings, as long as nobody changed it in between.
 */
#ifndef OPERATORS
#define OPERATORS 3
#endif
#define SHARDS 2
#define CLOSED(r) ((r) & 1)

byte record = 2, shard[SHARDS], active_ = 0;

inline agree() {
  assert(active_ != 0 || (shard[0] == record && shard[1] == record))
}

proctype Operator() {
  byte seal, seen, i; bit want;
  if :: want = 0 :: want = 1 fi;
  atomic { active_++; if :: CLOSED(record) != want -> record++ :: else fi; seal = record };
  do
  :: i < SHARDS ->
     seen = shard[i];
     if
#ifdef C_TURNBACK
     :: seen == seal -> i++
     :: seen != seal ->
#else
     :: seen >= seal -> i++                      /* a later turn was here */
     :: seen < seal ->
#endif
          atomic { if :: shard[i] == seen -> assert(seal >= seen); shard[i] = seal; i++ :: else fi }
     fi
  :: else -> break
  od;
  atomic { active_--; agree() }
#ifdef WITNESS  /* must fail: it was closed, opened and closed again */
  ; assert(record < 5 || active_ != 0)
#endif
}

init { byte n;
  atomic { shard[0] = record; shard[1] = record;
    do :: n < OPERATORS -> run Operator(); n++ :: else -> break od } }
