/* switch.pml: who switches a project (package switchover): operators that move it from ledger and storage 0 to 1
 * and back, end anywhere, are run again, and are taken for dead at any moment although they live.
 *
 * Each ledger's record says its rank (twice the epoch, and one more when closed, as in turn.pml), and of a move away
 * from it how far that is and whose. An operator's notes test that they are still its own; it takes the ledger that
 * it moves to into a closed epoch of its own, and works there only in that one. A switch that has not begun to open
 * the other ledger is given up; a later one is moved back.
 *
 * With DELETES the stage is once deleted at the old place and made anew there. A name that was given at the new place
 * before, by a switch that was given up, is then another: the operator is told, and nothing is promised of it (differs).
 *
 * Checked: whoever adopts the stage, anywhere and at any time, adopts the same manifest; no tag moves; the two
 * ledgers are never open together; and, when nobody is at it any more, a switch run once more comes to its end.
 *
 * Mutants of two operators and a runner:
 *          S_NORESET   a switch whose giving up was interrupted goes on after the closing
 *          S_BACKOPEN  the way back does not close
 *          S_STUCK     a switch whose epoch another took away goes on with opening in it, for ever in vain
 *          S_RAWNAME   names are put without entries (DELETES)
 *          S_RAWFINISH what was decided in the old ledger is put without a look directly before (DELETES)
 * and of three operators, who need no runner (NR=0) to be seen to open both ledgers, or none:
 *          S_BLINDOPEN the new ledger is opened whatever its rank is
 *          S_BLINDBACK who gives up opens the old ledger without seeing that the switch is still theirs
 *          S_STALESEAL a switch is taken over although its ledger was turned since it was looked at
 *          S_SETTLE    notes of another's move are tidied away
 *
 * No mutant: an operator who works in the epoch that it finds instead of one of its own. What a run that was taken for
 * dead can then still do is name stages beside the other one, under entries, which decide as ever; the opening, and
 * the giving up, fence it. The epoch of its own is for the run itself: it ends where it cannot help any more.
 */
#ifndef OPERATORS
#define OPERATORS 2
#endif
#ifndef NR
#define NR 1
#endif
#define BUILDING 1
#define PUBLISHING 2
#define PUBLISHED 3
#define ENTRY(state, manifest, nonce) ((state) | ((manifest) << 3) | ((nonce) << 5))
#define STATE(e) ((e) & 7)
#define MF(e)    (((e) >> 3) & 3)
#define SET(m)   (1 << (m))
#define CLOSED(r) ((r) & 1)
#define NEXTCLOSED(r) (((r) / 2 + 1) * 2 + 1)
#define NEXTOPEN(r) (((r) / 2 + 1) * 2)
#define COPYING 1
#define NAMING 2
#define OPENING 3
#define MOVED 4

short led[2]; byte tag[2], puts[2], rank[2], step[2], by[2], ep[2];
byte seen = 0;   /* ghost: what was adopted first */
byte working = 0, ended = 0;

#ifdef DELETES
byte gone = 0;   /* the manifest of the generation that was deleted */
bit differs = 0; /* ghost: an operator was told that the new storage has another manifest */
#define GONE gone
#define DIFFERS differs
inline compare(theirs) { if :: (theirs) != 0 && (theirs) != tag[f] -> differs = 1 :: else fi }
#else
#define GONE 0
#define DIFFERS 0
inline compare(theirs) { skip }
#endif

inline adopt(m) { assert(DIFFERS || seen == 0 || seen == (m)); seen = (m) }
inline swap(l, r, from, to) { atomic { if :: led[l] == (from) && rank[l] == (r) -> led[l] = (to); ok = 1 :: else -> ok = 0 fi } }
inline alone() { assert(CLOSED(rank[0]) || CLOSED(rank[1])) }
inline interrupted() { if :: skip :: (ended < OPERATORS - 1) -> goto over fi }

/* A runner begins where the records lead, and keeps to the epoch in which it took the entry. */
proctype Runner(byte id) {
  short e, mine; byte m, l, r, tries; bit ok;
begin:
  atomic { e = 0; mine = 0; m = 0;
    if :: CLOSED(rank[0]) && step[0] == MOVED -> l = 1 :: else -> l = 0 fi;
    m = tag[l]; if :: m != 0 -> adopt(m); goto end :: else fi };
  if :: tries >= 2 -> goto end :: else -> tries++ fi;
  if :: atomic { !CLOSED(rank[l]) -> r = rank[l]; e = led[l] } :: CLOSED(rank[l]) -> goto begin fi;
  if
  :: STATE(e) == PUBLISHED -> atomic { if :: led[l] == e -> adopt(MF(e)) :: else fi }; goto end
  :: STATE(e) == PUBLISHING -> mine = ENTRY(PUBLISHING, MF(e), id * 2 + tries)
  :: else -> mine = ENTRY(BUILDING, 0, id * 2 + tries)
  fi;
  swap(l, r, e, mine);
  if :: !ok -> goto begin :: else fi;
  if :: STATE(mine) == PUBLISHING -> m = MF(mine); goto put :: else fi;
  m = tag[l];
  if :: m == 0 && tag[1 - l] != GONE -> m = tag[1 - l] :: else fi;     /* the storage that was left */
  if :: m == 0 -> if :: GONE != 1 -> m = 1 :: GONE != 2 -> m = 2 fi :: else fi;
  swap(l, r, mine, ENTRY(PUBLISHING, m, id * 2 + tries));
  if :: !ok -> goto begin :: else -> mine = ENTRY(PUBLISHING, m, id * 2 + tries) fi;
put:
  atomic { if :: led[l] == mine && rank[l] == r -> puts[l] = puts[l] | SET(m) :: else -> goto begin fi };
  if :: tag[l] == m :: goto begin fi;
  atomic { if :: led[l] == mine && rank[l] == r -> led[l] = ENTRY(PUBLISHED, m, id * 2 + tries); adopt(m) :: else -> goto begin fi };
end:
  atomic { e = 0; mine = 0; m = 0; l = 0; r = 0; tries = 0; ok = 0 }
}

inline note(s) { atomic { if :: by[f] == id && step[f] == st -> step[f] = s; st = s :: else -> goto over fi } }

proctype Operator(byte id) {
  byte f, t, m, was, st, my; short e; bit ok, last;
  if :: f = 0 :: f = 1 fi;
again:
  atomic { t = 1 - f; m = 0; was = 0; st = 0; my = 0; e = 0 };
  if
  :: f == 0 -> skip
  :: f == 1 ->   /* what is there to take back */
     atomic { st = step[0]; was = by[0];
       if :: st == 0 || (st == MOVED && !CLOSED(rank[0]) && (step[1] == 0 || step[1] == MOVED)) -> goto over :: else fi };
     if
     :: st == COPYING || st == NAMING -> goto giveup
#ifndef S_STUCK
     :: st == OPENING && CLOSED(rank[1]) && rank[1] != ep[0] -> goto giveup
     :: st == OPENING && !(CLOSED(rank[1]) && rank[1] != ep[0]) ->
#else
     :: st == OPENING ->
#endif
        atomic { if :: step[0] == st && by[0] == was -> by[0] = id; f = 0; t = 1; my = ep[0] :: else -> goto over fi };
        goto open
     :: else -> skip
     fi
  fi;
  /* begin: read, and take over */
  atomic { st = step[f]; was = by[f]; my = rank[f];
    if
    :: CLOSED(my) && (st == MOVED || st == 0) -> goto over
    :: !CLOSED(my) && st == MOVED -> step[f] = 0; st = 0
    :: else
    fi };
  atomic { if
#ifdef S_STALESEAL
    :: step[f] == st && by[f] == was ->
#else
    :: step[f] == st && by[f] == was && rank[f] == my ->
#endif
      by[f] = id;
      if :: st == 0 -> st = COPYING :: else fi;
#ifndef S_NORESET
      if :: !CLOSED(my) && st >= NAMING -> st = COPYING :: else fi;
#endif
#ifndef S_STUCK
      if :: st == OPENING && CLOSED(rank[t]) && rank[t] != ep[f] -> st = NAMING :: else fi;
#endif
      step[f] = st
    :: else -> goto over fi };
  interrupted();
  if :: st == OPENING -> my = ep[f]; goto open :: else fi;
  was = rank[t];
  if :: !CLOSED(was) -> goto over :: else fi;    /* others work there: not modelled */
  atomic { if :: rank[t] == was -> rank[t] = NEXTCLOSED(was) :: else -> goto over fi };
  interrupted();
  atomic { if :: by[f] == id -> ep[f] = NEXTCLOSED(was) :: else -> goto over fi };
  was = ep[f];
  if
  :: st == COPYING ->
     interrupted();
#ifdef S_BACKOPEN
     if :: f == 1 -> skip :: else ->
#else
     if :: 1 ->
#endif
        atomic { if :: rank[f] == my || rank[f] == (my | 1) -> rank[f] = my | 1 :: else -> goto over fi }
     fi;
     interrupted();
     note(NAMING)
  :: else
  fi;
  /* finish what was being published; both a resumed and a new run may do so */
  e = led[f];
  if
  :: STATE(e) == PUBLISHING ->
     m = MF(e);
#ifdef S_RAWFINISH
     puts[f] = puts[f] | SET(m);
     if :: tag[f] == m :: interrupted() fi
#else
     atomic { if :: led[f] == e && rank[f] == (my | 1) -> puts[f] = puts[f] | SET(m) :: else -> goto over fi };
     if :: tag[f] == m :: rank[f] != (my | 1) -> goto over fi
#endif
  :: else
  fi;
  interrupted();
  atomic { m = tag[f]; compare(tag[t]) };
  if
  :: m != 0 && tag[t] == 0 ->
#ifdef S_RAWNAME
     puts[t] = puts[t] | SET(m)
#else
     atomic { e = led[t]; compare(MF(e)) };
     if
     :: STATE(e) == PUBLISHED -> skip
     :: STATE(e) == PUBLISHING -> m = MF(e); swap(t, was, e, ENTRY(PUBLISHING, m, 16 + id)); if :: !ok -> goto over :: else fi
     :: else -> swap(t, was, e, ENTRY(PUBLISHING, m, 16 + id)); if :: !ok -> goto over :: else fi
     fi;
     interrupted();
     if
     :: STATE(e) == PUBLISHED -> skip
     :: else ->
        atomic { if :: led[t] == ENTRY(PUBLISHING, m, 16 + id) && rank[t] == was -> puts[t] = puts[t] | SET(m) :: else -> goto over fi };
        if :: tag[t] == m :: rank[t] != was -> goto over fi;
        swap(t, was, ENTRY(PUBLISHING, m, 16 + id), ENTRY(PUBLISHED, m, 16 + id));
        if :: !ok -> goto over :: else fi
     fi
#endif
  :: else
  fi;
  interrupted();
  note(OPENING);
  my = was;
open:
  interrupted();
#ifdef S_BLINDOPEN
  atomic { rank[t] = NEXTOPEN(rank[t]); alone() };
#else
  atomic { if :: rank[t] == my || rank[t] == my + 1 -> rank[t] = my + 1 :: else -> goto over fi; alone() };
#endif
  st = OPENING;
  interrupted();
  note(MOVED);
  interrupted();
#ifdef S_SETTLE
  step[t] = 0;
#else
  atomic { if :: !CLOSED(rank[t]) && (step[t] == 0 || step[t] == MOVED) -> step[t] = 0 :: else fi };
#endif
#ifdef WITNESS  /* must fail: it has been there and back */
  assert(f == 0);
#endif
  goto over;
giveup:
  atomic { if :: step[0] == st && by[0] == was -> by[0] = id :: else -> goto over fi };
  interrupted();
  was = rank[1];
  if :: by[0] != id -> goto over :: else fi;
  atomic { if :: rank[1] == was -> rank[1] = NEXTCLOSED(was) :: else -> goto over fi };
  interrupted();
  was = rank[0];
  atomic { if
#ifdef S_BLINDBACK
    :: rank[0] == was -> rank[0] = NEXTOPEN(was); alone()
#else
    :: rank[0] == was && by[0] == id && step[0] == st -> rank[0] = NEXTOPEN(was); alone()
#endif
    :: else -> goto over fi };
  interrupted();
  atomic { if :: by[0] == id && step[0] == st -> step[0] = 0 :: else fi };
over:
  atomic {
    if
    :: last == 0 -> last = 1; ended++
    :: else
    fi;
    /* when nobody else is at it, the last one runs it there once more, to its end */
    if
    :: ended == OPERATORS && working == 0 -> working = 1; f = 0;
       if :: step[0] == MOVED && CLOSED(rank[0]) && (step[1] == 0 || step[1] == MOVED || !CLOSED(rank[1])) -> assert(!CLOSED(rank[1])); goto end
          :: step[0] == MOVED && !CLOSED(rank[0]) && step[1] != 0 && step[1] != MOVED -> f = 1
          :: step[0] == MOVED && CLOSED(rank[0]) && step[1] != 0 && step[1] != MOVED -> f = 1
          :: else
       fi;
       goto again
    :: ended == OPERATORS && working == 1 -> assert(!CLOSED(rank[0]) || !CLOSED(rank[1]))
    :: else
    fi
  };
end:
  skip
}

#define LAND(s, m) :: atomic { (puts[s] & SET(m)) -> if :: puts[s] = puts[s] & ~SET(m) :: skip fi; \
  assert(tag[s] == 0 || tag[s] == m); tag[s] = m }
/* A generation ends in the ledger with which all began, Δ after the last tag was put there, and another has begun. */
#ifdef DELETES
#define DELETE :: atomic { !CLOSED(rank[0]) && gone == 0 && tag[0] != 0 && puts[0] == 0 && (led[0] == 0 || STATE(led[0]) == PUBLISHED) -> \
  gone = tag[0]; tag[0] = 3 - gone; led[0] = 0; seen = 0 }
#else
#define DELETE
#endif
active proctype World() {
end:
  do LAND(0, 1) LAND(0, 2) LAND(1, 1) LAND(1, 2) DELETE od
}

init { byte n;
  atomic { rank[0] = 2; rank[1] = 3;
    do :: n < NR -> n++; run Runner(n) :: else -> break od;
    n = 0;
    do :: n < OPERATORS -> n++; run Operator(n) :: else -> break od } }
