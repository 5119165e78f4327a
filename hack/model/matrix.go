package main

// everyTime is what continuous integration checks: small enough for minutes,
// large enough that every mutant is refused.
func everyTime() []check {
	const (
		two     = "-DNR=2 -DATT=2 "
		cleaned = two + "-DCLEAN=1 "
		alive   = "-DLIVE -DNR=2 -DATT=8 "
		renamed = alive + "-DCLEAN=1 -DSEEDED -DBYNAME -DGC -DREPEATED=1"
		family  = "-DKIND1=1 -DKIND2=2 -DROUNDS=2 -DTRIES=2 -DSEEDED=3 -DLAG "
		couple  = "-DKIND1=1 -DROUNDS=2 -DTRIES=3 -DSEEDED=1 -DLAG "
	)
	return join(
		// The long ones first, so that the cores are used to the end.
		in("publish", holds, cleaned+"-DLOST=1 -DLATE", cleaned+"-DLAG -DGC -DCRASHES=1", cleaned+"-DLAG -DGC -DBYNAME",
			two+"-DLOST=2 -DLATE -DGC", two+"-DLAG -DGC"),
		in("deps", holds, "-DKIND1=1 -DKIND2=2 -DROUNDS=1 -DTRIES=2 -DSEEDED=1 -DLAG",
			"-DKIND1=1 -DKIND2=2 -DROUNDS=2 -DTRIES=1 -DSEEDED=2 -DLAG", couple, "-DKIND1=2 -DROUNDS=2 -DTRIES=2 -DSEEDED=3 -DLAG"),
		in("publish", refused, cleaned+"-DWITNESS"),
		in("publish", refused, mutants(cleaned+"-DLAG", "M_EARLYDROP", "M_NORECHECK", "M_TAGFIRST", "M_NOCAS", "M_MEMGUARD",
			"M_NOGUARD", "M_REMOVE", "M_NOAVOID", "M_ADOPTFIRST")...),
		in("publish", refused, cleaned+"-DBYNAME -DM_NODROPVERIFY", two+"-DGC -DM_PATCHBACK", two+"-DGC -DC_ABANDON",
			two+"-DLOST=1 -DLATE -DM_SAMENONCE", "-DNR=3 -DATT=1 -DCLEAN=2 -DC_RESCUEANY"),
		lively("publish", holds, alive+"-DCRASHES=1 -DDROPPED=1", alive+"-DCRASHES=1 -DGC", alive+"-DWRONG=1",
			alive+"-DLOST=1 -DLATE", alive+"-DCLEAN=1", renamed),
		lively("publish", stuck, alive+"-DLOST=1 -DLATE -DM_NOHEAL", alive+"-DCLEAN=1 -DC_NORECLAIM", renamed+" -DC_NOREPUBLISH"),
		in("deps", refused, couple+"-DWITNESS", "-DKIND1=1 -DROUNDS=1 -DTRIES=3 -DC_OURS",
			"-DKIND1=1 -DKIND2=1 -DROUNDS=2 -DTRIES=2 -DSEEDED=1 -DC_RESCUEMEMORY"),
		in("deps", refused, mutants(family, "M_NOGRACE", "M_NODRAIN", "M_NOLIST", "M_TAGSFIRST", "M_INVENTORYTAGSFIRST", "M_SUSPECT",
			"M_PARENTFIRST", "M_NOLOOKAGAIN", "M_NORESCUE", "M_EARLYDROP", "C_INDEXALONE", "C_TRUSTTAG")...),
		in("grace", holds, "-DCLEANERS=2 -DRUNS=2"),
		in("grace", refused, mutants("-DCLEANERS=2 -DRUNS=2", "WITNESS", "C_NOFREEING", "C_RIPEONCE", "M_WALLCLOCK", "M_NOTEEARLY",
			"M_NOGRACE", "M_NOLOOKAGAIN")...),
		lively("locks", holds, "-DNR=1", "-DNR=2", "-DNR=3 -DPLACES=0", "-DNR=2 -DFAILS=1 -DCRASHES=1"),
		lively("locks", stuck, "-DM_BLOCKING", "-DM_SLOT", "-DM_WHOLE", "-DFAILS=1 -DM_KEEP", "-DCRASHES=1 -DM_NOTAKEOVER",
			"-DNR=1 -DM_NOWANT"),
		in("epoch", holds, "-DNR=2", "-DNR=2 -DALLCOPY"),
		in("epoch", refused, mutants("-DNR=2", "WITNESS", "M_NOFENCE", "M_NOFINISH", "M_RAWCOPY", "M_NOFALL")...),
		in("switch", holds, "-DOPERATORS=2 -DDELETES", "-DOPERATORS=3 -DNR=0"),
		in("switch", refused, mutants("-DOPERATORS=2", "WITNESS", "S_NORESET", "S_BACKOPEN", "S_STUCK")...),
		in("switch", refused, mutants("-DOPERATORS=2 -DDELETES", "S_RAWNAME", "S_RAWFINISH")...),
		in("switch", refused, mutants("-DOPERATORS=3 -DNR=0", "S_BLINDOPEN", "S_BLINDBACK", "S_STALESEAL", "S_SETTLE")...),
		in("turn", holds, "-DOPERATORS=3"),
		in("turn", refused, mutants("-DOPERATORS=3", "WITNESS", "C_TURNBACK")...),
	)
}

// atLength is for a machine with time: three runners and more faults, exhaustively
// where two gigabytes hold it, else by swarms of random partial searches.
func atLength() []check {
	const (
		three  = "-DNR=3 -DATT=2 -DCLEAN=1 -DLAG -DGC"
		family = "-DKIND1=1 -DKIND2=2 -DKIND3=1 -DROUNDS=3 -DTRIES=3 -DSEEDED=3 -DLAG"
	)
	return join(
		in("publish", holds, "-DNR=3 -DATT=1 -DCLEAN=1 -DLAG", "-DNR=2 -DATT=2 -DCLEAN=2 -DLAG -DSEEDED",
			"-DNR=2 -DATT=2 -DCLEAN=1 -DLAG -DLOST=1", "-DNR=2 -DATT=3 -DLAG -DGC -DCRASHES=2"),
		in("deps", holds, "-DKIND1=1 -DKIND2=1 -DROUNDS=1 -DTRIES=2 -DSEEDED=1 -DLAG"),
		lively("publish", holds, "-DLIVE -DNR=3 -DATT=12 -DCRASHES=1", "-DLIVE -DNR=2 -DATT=12 -DCLEAN=1 -DWRONG=1 -DCRASHES=1 -DDROPPED=1 -DGC"),
		lively("locks", holds, "-DNR=3", "-DNR=3 -DPLACES=0 -DFAILS=1 -DCRASHES=1"),
		swarm("publish", three, three+" -DBYNAME", three+" -DLOST=2 -DLATE -DCRASHES=1", three+" -DBYNAME -DCRASHES=2"),
		swarm("deps", family, "-DKIND1=1 -DKIND2=2 -DKIND3=2 -DROUNDS=2 -DTRIES=2 -DSEEDED=1 -DLAG"),
		swarm("epoch", "-DNR=3", "-DNR=3 -DALLCOPY"),
		in("grace", holds, "-DCLEANERS=2 -DRUNS=3"),
		in("turn", holds, "-DOPERATORS=4"),
	)
}

func join(groups ...[]check) []check {
	var all []check
	for _, g := range groups {
		all = append(all, g...)
	}
	return all
}

func in(model string, want verdict, switches ...string) []check {
	var all []check
	for _, s := range switches {
		all = append(all, check{model: model, switches: s, want: want})
	}
	return all
}

func lively(model string, want verdict, switches ...string) []check {
	all := in(model, want, switches...)
	for i := range all {
		all[i].live = true
	}
	return all
}

// swarm searches each configuration several times, every time another part.
func swarm(model string, switches ...string) []check {
	const size = 4
	var all []check
	for seed := 1; seed <= size; seed++ {
		for _, c := range in(model, partial, switches...) {
			c.seed = seed
			all = append(all, c)
		}
	}
	return all
}

// mutants returns the base's switches with each mutant's.
func mutants(base string, names ...string) []string {
	var all []string
	for _, n := range names {
		all = append(all, base+" -D"+n)
	}
	return all
}
