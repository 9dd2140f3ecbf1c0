package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// permute moves the options of a command before its operands, so that `restore DIR --to-time T` works as people type it: the flag parser
// stops at the first operand. What follows a bare -- stays as it is.
func permute(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	commands, flags, at := app.Commands, []cli.Flag(nil), 1
	for at < len(args) {
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(args[at]) })
		if i < 0 {
			break
		}
		flags, commands = commands[i].Flags, commands[i].Subcommands
		at++
	}
	if len(commands) > 0 || len(flags) == 0 {
		return args
	}
	options, rest := slices.Clone(args[:at]), []string{}
	for i := at; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return append(append(options, rest...), args[i:]...)
		}
		if len(arg) < 2 || arg[0] != '-' {
			rest = append(rest, arg)
			continue
		}
		options = append(options, arg)
		name, _, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !joined && takesValue(flags, name) && i+1 < len(args) {
			i++
			options = append(options, args[i])
		}
	}
	return append(options, rest...)
}

func takesValue(flags []cli.Flag, name string) bool {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			_, isBool := f.(*cli.BoolFlag)
			return !isBool
		}
	}
	return false
}
