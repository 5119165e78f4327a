/* publish.pml: the life of one stage, at the grain of single requests.
 *
 * Runners and a cleaner share two things: the ledger's entry of the stage, which
 * can be compared and swapped, and a registry, which cannot. The model follows
 * stages/build (look, acquire, work, publish, finish, delete) and synchronization
 * (the moves of an entry) step by step; what lies between two steps may take for
 * ever. Nobody's death is represented: anybody may take anybody for dead at any
 * moment, the living included, and go on as if nothing had happened.
 *
 * Assumed, and nothing else:
 *   DELTA   when an entry of state published or deleted is dropped, and when a decided manifest is
 *           believed lost, no request sent under the entry is under way and no read lags: macro QUIET
 *   LEDGER  the entry is one cell: reads show every acknowledged write
 *   NONCE   no acquisition has the nonce of another
 *
 * The registry: PUTs of the tag carry the manifest, land at any later time, more than once or never;
 * so do DELETEs. A reader may get what the tag showed before (LAG).
 * Switches of the surroundings:
 *   NR runners, ATT acquisitions by each, CLEAN rounds of a cleaner, CRASHES in all
 *   LAG     reads of the tag may be old           GC      the registry collects untagged manifests
 *   BYNAME  a deletion removes the tag by name    LOST=n  answers of the ledger that get lost
 *   LATE    a write whose answer was lost may be applied later
 *   LIVE    check progress: the dead are known as such, requests arrive, faults are counted
 *
 * Mutants M_…: rules left out. Mutants C_…: what the code once did, or does; the page
 * docs/decisions/0010-protocol-model.md tells the stories.
 */
#ifndef NR
#define NR 2
#endif
#ifndef ATT
#define ATT 2
#endif
#ifndef CLEAN
#define CLEAN 0
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
#ifndef LOST
#define LOST 0
#endif

#define ABSENT     0
#define BUILDING   1
#define PUBLISHING 2
#define PUBLISHED  3
#define DOOMED     4
#define DELETING   5
#define DELETED    6

/* An entry is one number. A nonce tells its owner, too. */
#define ENTRY(state, manifest, avoid, nonce) ((state) | ((manifest) << 3) | ((avoid) << 5) | ((nonce) << 7))
#define STATE(e)  ((e) & 7)
#define MF(e)     (((e) >> 3) & 3)
#define AVOID(e)  (((e) >> 5) & 3)
#define NONCE(e)  ((e) >> 7)
#define OWNER(e)  (NONCE(e) / (ATT + 2))
#define FRESH     (id * (ATT + 2) + att)
#define SET(m)    (1 << (m))

/* released: what is left of an entry under which nothing was decided. */
#define RELEASED(e) (AVOID(e) == 0 -> 0 : ENTRY(DELETED, AVOID(e), 0, NONCE(e)))

short led = 0;                      /* the entry */
byte tag = 0, lag = 0, man = 0;     /* the tag, what old reads may show, the manifests that exist */
byte puts = 0, dels = 0; bit untag = 0; /* requests under way: PUT tag, DELETE by digest, DELETE by name */
short lateOld = -1, lateNew = -1;   /* a write of the ledger that was reported lost */
byte lost = LOST, crashes = CRASHES;

byte cur = 0;  /* ghost: what this generation decided, 0 before */
byte old = 0;  /* ghost: what the generation before had, until nobody can see it any more */
#ifdef WITNESS
byte ended = 0, first = 0;
#endif

#define QUIET (puts == 0 && dels == 0 && !untag && lag == 0)
#ifdef M_EARLYDROP  /* the age of an entry taken from two machines' clocks */
#define AGED 1
#else
#define AGED QUIET
#endif

/* What holds at every moment. */
inline check() {
  /* One manifest: the tag shows what was decided, or nothing, or what is just being deleted. */
  assert(tag == 0 || tag == cur || (STATE(led) == DELETING && tag == old));
  /* The ledger and the registry agree. */
  assert((STATE(led) != PUBLISHING && STATE(led) != PUBLISHED) || MF(led) == cur);
  /* Where the ledger is silent the tag is right, for whoever reads it, and leads to something. */
  assert(STATE(led) != ABSENT || cur == 0 || (tag == cur && (man & SET(cur))));
  assert(STATE(led) != ABSENT || (lag & ~SET(cur)) == 0);
#if !defined(GC) || !defined(BYNAME)
  assert(STATE(led) != PUBLISHED || (man & SET(cur)));   /* what was published is there */
#endif
#ifdef WITNESS  /* must fail: a second generation with another manifest is complete */
  assert(!(ended == 1 && STATE(led) == ABSENT && cur != 0 && cur != first && tag == cur));
#endif
}

/* apply makes a change of the entry; adopts is what its author adopts by it. */
inline apply(from, to, adopts) {
  if
  :: STATE(from) == BUILDING && STATE(to) == PUBLISHING ->
       assert(cur == 0); cur = MF(to)            /* one decision in a generation */
  :: STATE(from) != DELETING && STATE(to) == DELETING ->
       old = cur; cur = 0
#ifdef WITNESS
       ; ended++; first = old
#endif
  :: STATE(from) == BUILDING && (adopts) != 0 -> assert((adopts) == cur)
  :: else
  fi;
  led = (to); check()
}

inline readTag(x) {
  if
  :: x = tag
  :: (lag & SET(0)) -> x = 0
  :: (lag & SET(1)) -> x = 1
  :: (lag & SET(2)) -> x = 2
  fi
}

inline setTag(m) {
  if
  :: tag != (m) ->
#ifdef LAG
       lag = (lag | SET(tag)) & ~SET(m);
#endif
       tag = (m)
  :: else
  fi;
  check()
}

/* hit: a reader takes what the tag shows and asks no ledger. What it holds stays usable for the
 * grace, so the generation that just ended is right, too. */
inline hit(m) { assert((m) == cur || (m) == old) }

/* write changes the entry, reading back after a lost answer. once: the change carries a fresh nonce,
 * and is not sent again when the read-back does not show it. ok: 1 done, 0 not. */
inline write(from, to, once, adopts) {
  ok = 2; unsure = 0;
  do
  :: ok == 2 ->
     atomic {
       if
       :: unsure && led == (to) -> ok = 1
       :: unsure && once && led != (to) -> ok = 0
       :: unsure && !once && led != (to) && led != (from) -> ok = 0
       :: !unsure && led != (from) -> ok = 0
       :: led == (from) && !(unsure && once) -> apply(from, to, adopts); ok = 1
       :: led == (from) && !(unsure && once) && lost > 0 -> lost--; unsure = 1; apply(from, to, adopts)
       :: led == (from) && !(unsure && once) && lost > 0 -> lost--; unsure = 1
#ifdef LATE
       :: led == (from) && !(unsure && once) && lost > 0 && lateOld < 0 ->
            lost--; unsure = 1; lateOld = (from); lateNew = (to)
#endif
       fi
     }
  :: else -> unsure = 0; break
  od
}

#ifdef M_SAMENONCE
#define ONCE 0
#else
#define ONCE 1
#endif

#ifdef LIVE
#ifndef WRONG
#define WRONG 0     /* wrong suspicions */
#endif
#ifndef DROPPED
#define DROPPED 0   /* requests to the registry that never arrive */
#endif
#ifndef REPEATED
#define REPEATED 0  /* requests to the registry that take effect a second time */
#endif
bit gone[NR + 2], fin[NR + 2];
byte wrong = WRONG, dropped = DROPPED, repeated = REPEATED;
#define SUSPECT(e) (gone[OWNER(e)] || HEALS)
#ifdef M_NOHEAL
#define HEALS 0
#else
#define HEALS (OWNER(e) == id)
#endif
#define CRASH if :: skip :: atomic { crashes > 0 -> crashes-- }; goto end fi
#define ended_ (fin[1] && (NR < 2 || fin[NR]))
ltl progress { <> ended_ }
#else
#define SUSPECT(e) 1
#define CRASH if :: skip :: atomic { crashes > 0 -> crashes-- }; goto look fi
#endif

proctype Runner(byte id) {
  short e, mine; byte m, v, att, ok; bit unsure, have;

look:
  atomic { e = 0; mine = 0; m = 0; v = 0; have = 0 };
  atomic { readTag(v); if :: v != 0 -> hit(v); goto end :: else fi };
attempt:
#ifdef LIVE
  assert(att < ATT);
#else
  if :: att >= ATT -> goto end :: else fi;
#endif
  atomic { att++; e = led;
    if
    :: STATE(e) == ABSENT  -> mine = ENTRY(BUILDING, 0, 0, FRESH)
#ifdef M_NOAVOID
    :: STATE(e) == DELETED -> mine = ENTRY(BUILDING, 0, 0, FRESH)
#else
    :: STATE(e) == DELETED -> mine = ENTRY(BUILDING, 0, MF(e), FRESH)
#endif
    :: STATE(e) == PUBLISHED -> goto adoptDecided
    :: STATE(e) == DOOMED -> goto rescue
    :: else -> goto held
    fi };
  goto take;

held: /* wait for a change, or for the owner's death */
  if
  :: atomic { led != e -> att--; goto look }
  :: atomic { SUSPECT(e) -> mine = ENTRY(STATE(e), MF(e), AVOID(e), FRESH) }
#ifdef LIVE
  :: atomic { wrong > 0 -> wrong--; mine = ENTRY(STATE(e), MF(e), AVOID(e), FRESH) }
#endif
  fi;
  goto take;

adoptDecided: /* the entry knows better than the tag; what is missing is published again */
#ifdef LIVE
  atomic { readTag(v); if :: v == MF(e) && (man & SET(v)) -> goto end :: else -> v = 0 fi };
#else
  if :: (man & SET(MF(e))) -> goto end :: skip fi;
#endif
#ifdef C_NOREPUBLISH
  if
  :: (man & SET(MF(e))) -> goto end
  :: led != e -> att--; goto look
  fi;
#endif
  mine = ENTRY(PUBLISHING, MF(e), 0, FRESH);
  goto take;

rescue: /* the tag, read after the mark, is right */
  atomic { readTag(v) };
#ifdef C_RESCUEANY /* the mark that is found need not be the one that was seen */
  atomic { if :: STATE(led) == DOOMED -> e = led :: else fi };
#endif
  if
  :: v != 0 -> mine = ENTRY(PUBLISHED, v, 0, FRESH)
#ifdef C_NORECLAIM
  :: v == 0 -> atomic { led != e -> att--; goto look }
#else
  :: v == 0 -> mine = ENTRY(BUILDING, 0, 0, FRESH)
#endif
  fi;

take:
  write(e, mine, ONCE, 0);
  e = 0; v = 0;
  if :: ok == 0 -> goto look :: else fi;
  CRASH;
  if
  :: STATE(mine) == PUBLISHED  -> goto look
  :: STATE(mine) == PUBLISHING -> m = MF(mine); goto finish
  :: STATE(mine) == DELETING   -> m = MF(mine); goto delete
  :: else
  fi;

  /* Under the entry: once more. What is found counts when the entry was ours all the while. */
#ifndef M_NORECHECK
  atomic { if :: AVOID(mine) == 0 -> readTag(v) :: else -> v = 0 fi
#ifdef M_ADOPTFIRST
    ; if :: v != 0 -> assert(v == cur) :: else fi
#endif
  };
  if
  :: v != 0 -> write(mine, 0, 0, v); if :: ok == 1 -> goto end :: else -> goto look fi
  :: else
  fi;
#endif

  /* Make it (anything but what is to be avoided may come out), push it by digest. */
  atomic { if :: AVOID(mine) != 1 -> m = 1 :: AVOID(mine) != 2 -> m = 2 fi; man = man | SET(m); have = 1 };
  CRASH;
#ifdef M_TAGFIRST
  puts = puts | SET(m);
  atomic { readTag(v); if :: v == m :: else -> goto look fi };
#endif
#ifdef M_NOCAS
  atomic { apply(led, ENTRY(PUBLISHING, m, 0, NONCE(mine)), 0); ok = 1 };
#else
  write(mine, ENTRY(PUBLISHING, m, 0, NONCE(mine)), 0, 0);
#endif
  if
  :: ok == 0 -> goto look
  :: else -> mine = ENTRY(PUBLISHING, m, 0, NONCE(mine))
  fi;
  CRASH;

finish: /* what was decided, by us or by one who is gone */
  if
  :: have || (man & SET(m)) -> have = 1
  :: !have && !(man & SET(m)) -> goto missing
  fi;
put:
  atomic { readTag(v); if :: v == m -> goto named :: else fi };
#ifdef M_MEMGUARD /* the entry was read, but not immediately before */
  if :: led == mine :: else -> goto look fi;
  puts = puts | SET(m);
#else
#ifdef M_NOGUARD
  puts = puts | SET(m);
#else
  atomic { if :: led == mine -> puts = puts | SET(m) :: else -> goto look fi };
#endif
#endif
  CRASH;
#ifdef LIVE
  if
  :: tag == m
  :: atomic { tag != m && !(puts & SET(m)) -> goto put }
  :: atomic { led != mine -> goto look }
  fi;
#else
  atomic { readTag(v);
    if
    :: v == m
    :: v != m && !(puts & SET(m)) -> goto put
    :: v != m -> goto look                        /* gave up */
    fi };
#endif
named:
  CRASH;
#ifdef M_REMOVE
  write(mine, 0, 0, 0);
#else
  write(mine, ENTRY(PUBLISHED, m, 0, NONCE(mine)), 0, 0);
#endif
  if :: ok == 1 -> goto end :: else -> goto look fi;

missing: /* a decided manifest that is not there and that nobody here has made */
#ifdef M_PATCHBACK
  write(mine, ENTRY(BUILDING, 0, 0, NONCE(mine)), 0, 0);
  if :: ok == 0 -> goto look :: else fi;
  atomic { if :: m = 1 :: m = 2 fi; man = man | SET(m); have = 1; mine = ENTRY(BUILDING, 0, 0, NONCE(mine)) };
  write(mine, ENTRY(PUBLISHING, m, 0, NONCE(mine)), 0, 0);
  if :: ok == 0 -> goto look :: else -> mine = ENTRY(PUBLISHING, m, 0, NONCE(mine)) fi;
  goto put;
#endif
#ifndef C_ABANDON
  if
  :: QUIET && led == mine && !(man & SET(m))
  :: atomic { (man & SET(m)) -> goto finish }
  :: atomic { led != mine -> goto look }
  fi;
#endif
  write(mine, ENTRY(DELETING, m, 0, NONCE(mine)), 0, 0);
  if :: ok == 0 -> goto look :: else -> mine = ENTRY(DELETING, m, 0, NONCE(mine)) fi;

delete:
  atomic { if :: led == mine :: else -> goto look fi;
#ifdef BYNAME
    untag = 1
#else
    dels = dels | SET(m)
#endif
  };
#ifdef LIVE
  if
  :: tag == 0 && !(dels & SET(m)) && !untag
  :: atomic { tag != 0 && !(dels & SET(m)) && !untag -> goto delete }
  :: atomic { led != mine -> goto look }
  fi;
#else
  atomic { readTag(v); if :: v == 0 :: v != 0 -> goto look fi };
#endif
  write(mine, ENTRY(DELETED, m, 0, NONCE(mine)), 0, 0);
  goto look;

end:
  atomic { e = 0; mine = 0; m = 0; v = 0; ok = 0; have = 0; unsure = 0;
#ifdef LIVE
    gone[id] = 1; fin[id] = 1
#else
    att = ATT
#endif
  }
}

#if CLEAN > 0
/* The cleaner of one stage on which nothing stands; deps.pml has what it must know about others. */
proctype Cleaner(byte id) {
  short mine; byte m, v, att, ok; bit unsure;
  do
  :: att < CLEAN ->
     atomic { att++; mine = ENTRY(DOOMED, 0, 0, FRESH) };
     write(0, mine, ONCE, 0);
     if :: ok == 0 -> goto next :: else fi;
     if :: skip :: goto next fi;                    /* dies */
     atomic { readTag(m) };
     if
     :: m == 0 -> write(mine, 0, 0, 0); goto next
     :: else -> write(mine, ENTRY(DELETING, m, 0, FRESH), 0, 0)
     fi;
     if :: ok == 0 -> goto next :: else -> mine = ENTRY(DELETING, m, 0, FRESH) fi;
     atomic {
#ifndef M_NOGUARD
       if :: led == mine :: else -> goto next fi;
#endif
#ifdef BYNAME
       untag = 1
#else
       dels = dels | SET(m)
#endif
     };
     atomic { readTag(v); if :: v == 0 :: goto next fi };   /* seen gone, or gives up */
     write(mine, ENTRY(DELETED, m, 0, FRESH), 0, 0);
next: atomic { mine = 0; m = 0; v = 0; ok = 0; unsure = 0 }
  :: break
  od;
#ifdef LIVE
  gone[id] = 1;
#endif
  att = 0
}
#endif

#ifdef LIVE
#define MAYREPEAT(x) if :: x :: repeated > 0 -> repeated-- fi
#else
#define MAYREPEAT(x) if :: x :: skip fi
#endif
#define LAND(m) \
  :: atomic { (puts & SET(m)) -> MAYREPEAT(puts = puts & ~SET(m)); \
       assert((m) == cur); man = man | SET(m); setTag(m) }
#define ERASE(m) \
  :: atomic { (dels & SET(m)) -> MAYREPEAT(dels = dels & ~SET(m)); man = man & ~SET(m); \
       if :: tag == (m) -> setTag(0) :: else -> check() fi }

/* The registry, the ledger's sweep, and writes that come late. */
active proctype World() {
end:
  do
  LAND(1) LAND(2) ERASE(1) ERASE(2)
  :: atomic { untag -> MAYREPEAT(untag = 0); setTag(0) }
#ifdef LIVE
  :: atomic { (puts != 0 || dels != 0 || untag) && dropped > 0 -> dropped--; puts = 0; dels = 0; untag = 0 }
#else
  :: atomic { puts != 0 -> puts = 0 }
  :: atomic { dels != 0 -> dels = 0 }
  :: atomic { untag -> untag = 0 }
#endif
  :: atomic { lag != 0 -> lag = 0 }
#ifdef GC
  :: atomic { (man & SET(1)) && tag != 1 -> man = man & ~SET(1); check() }
  :: atomic { (man & SET(2)) && tag != 2 -> man = man & ~SET(2); check() }
#endif
#ifdef LATE
  :: atomic { lateOld >= 0 ->
       if :: led == lateOld -> apply(lateOld, lateNew, 0) :: else fi; lateOld = -1; lateNew = -1 }
#endif
#ifdef M_NODROPVERIFY
  :: atomic { STATE(led) == PUBLISHED && AGED -> led = 0; old = 0; check() }
#else
  :: atomic { STATE(led) == PUBLISHED && AGED && tag == MF(led) -> led = 0; old = 0; check() }
#endif
  :: atomic { STATE(led) == DELETED && AGED -> led = 0; old = 0; check() }
#ifndef LIVE
  :: atomic { STATE(led) == BUILDING || STATE(led) == DOOMED -> led = RELEASED(led); check() }
#endif
  od
}

init {
  atomic {
#ifdef SEEDED  /* published long ago */
    tag = 1; man = SET(1); cur = 1;
#endif
    run Runner(1);
#if NR > 1
    run Runner(2);
#endif
#if NR > 2
    run Runner(3);
#endif
#if CLEAN > 0
    run Cleaner(NR + 1);
#endif
  }
}
