/* grace.pml: how the grace of a stage is counted over many runs of cleaners.
 *
 * A stage S and an index X that lists it, or none. Builds read X, which asks no ledger, and use S some
 * time later; others publish X anew. Cleaners plan, note, delete X, note again, and delete S when its
 * note is old; each may die after any step, be as slow as it likes with a plan that is not true any more,
 * and run beside another. What deps.pml is about (mark, drain, look again) is one step here, and what
 * deps.pml assumes, GRACE, is what is shown: whoever reads X uses S before S goes.
 *
 * A note of S is kept by the ledger and survives all cleaners:
 *   since    0: none, 1: it counts, 2: it is as old as the grace
 *   freeing  the cleaners that are about to delete an index that lists S
 *
 * Assumed:
 *   GRACE   a build that read X before a note began to count is through when the note is old; macro THROUGH
 *   DEATH   a cleaner that is seen dead deletes nothing afterwards: its session is lost, by its own clock too
 */
#ifndef CLEANERS
#define CLEANERS 2
#endif
#ifndef RUNS
#define RUNS 2      /* of each cleaner */
#endif
#ifndef BUILDS
#define BUILDS 2    /* that publish X, and S where it is gone */
#endif
#ifndef READS
#define READS 2     /* of X, by builds in which nothing has changed */
#endif

bit s = 1, x = 1;
byte since = 0, freeing = 0;
byte dead = 0;                  /* cleaners whose present run has died */
byte readers = 0, early = 0;    /* builds that use what X told them; those of them that read before the note */
byte swept = 0;

#define ME  (1 << id)

#ifdef M_WALLCLOCK    /* the clocks of two machines are compared: a note has any age */
#define THROUGH 1
#else
#define THROUGH (early == 0)
#endif

inline begin() { since = 1; early = readers }

inline check() { assert(s || !x) }

proctype Reader() {
  byte n;
end:
  do
  :: atomic { n < READS && x -> n++; readers++ };
     /* It uses S, whenever. */
     atomic { assert(s); readers--; if :: early > readers -> early = readers :: else fi }
  :: break
  od
}

proctype Builder() {
  byte n;
end:
  do
  :: atomic { n < BUILDS && !x -> n++; s = 1; x = 1; check() }
  :: break
  od
}

proctype Cleaner(byte id) {
  byte n; bit sawX, sawS, ripe;
next:
  do
  :: n < RUNS ->
     atomic { n++; dead = dead & ~ME; ripe = 0;
       /* The plan. What a branch names is in no plan, and what stands in none has no note. */
       sawX = x; sawS = s };
     if :: goto note :: sawX -> goto kept fi;
kept:
     atomic { since = 0; early = 0; freeing = freeing & ~dead; goto next };

note: /* before anything goes: what nothing names, and what this run is about to free */
     atomic {
#ifdef M_NOTEEARLY    /* what the run is about to free is noted before it is seen gone */
       if :: since == 0 -> begin() :: else fi;
       ripe = (!sawX && since == 2)
#else
       if
       :: sawX -> since = 0; early = 0
#ifndef C_NOFREEING
          ; freeing = freeing | ME
#endif
#ifndef C_NOFREEING
       :: !sawX && (freeing & ~ME & ~dead) != 0 -> skip        /* another is at it */
       :: !sawX && (freeing & ~ME & ~dead) == 0 && freeing != 0 ->
          freeing = 0; begin()                                  /* another died at it */
       :: !sawX && freeing == 0 && since == 0 -> begin()
       :: !sawX && freeing == 0 && since != 0 -> ripe = (since == 2)
#else
       :: !sawX && since == 0 -> begin()
       :: !sawX && since != 0 -> ripe = (since == 2)
#endif
       fi
#endif
     };
     if :: skip :: atomic { dead = dead | ME; goto next } fi;
     if
     :: sawX -> atomic { x = 0 }                                /* mark, drain, look, delete, see it gone */
     :: else
     fi;
     if :: skip :: atomic { dead = dead | ME; goto next } fi;
#ifndef M_NOTEEARLY
     if
     :: sawX -> atomic { begin(); freeing = freeing & ~ME }
     :: else
     fi;
#endif
     if :: skip :: atomic { dead = dead | ME; goto next } fi;
#ifdef M_NOGRACE
     ripe = 1;
#endif
     if
     :: sawS && ripe ->
        atomic {
#ifndef M_NOLOOKAGAIN
          if :: x -> goto next :: else fi;
#endif
#if !defined(C_RIPEONCE) && !defined(M_NOGRACE)   /* the note, once more, under the mark */
          if :: since != 2 || (freeing & ~ME) != 0 -> goto next :: else fi;
#endif
          s = 0; swept++; check()
#ifdef WITNESS /* must fail: S goes, is made anew, and goes again */
          ; assert(swept < 2)
#endif
        }
     :: else
     fi
  :: break
  od;
  dead = dead | ME
}

active proctype World() {
end:
  do
  :: atomic { since == 1 && THROUGH -> since = 2 }
  od
}

init {
  atomic {
    run Reader();
    run Builder();
    run Cleaner(0);
#if CLEANERS > 1
    run Cleaner(1);
#endif
#if CLEANERS > 2
    run Cleaner(2);
#endif
  }
}
