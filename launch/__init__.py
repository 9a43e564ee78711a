"""The command line: plan, run, list, doctor, report. Imports no torch; every stage is a process of its own."""
