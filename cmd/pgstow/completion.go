package main

import (
	_ "embed"

	"github.com/urfave/cli/v2"
)

//go:embed completion/bash
var bashCompletion string

//go:embed completion/zsh
var zshCompletion string

//go:embed completion/fish
var fishCompletion string

func completionCommand(e *environment) *cli.Command {
	scripts := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	return &cli.Command{
		Name:         "completion",
		Usage:        "print the completion script of a shell",
		ArgsUsage:    "bash|zsh|fish",
		OnUsageError: onUsageError,
		CustomHelpTemplate: cli.CommandHelpTemplate + "\nEXAMPLES:\n" + indent(`source <(pgstow completion bash)
pgstow completion fish > ~/.config/fish/completions/pgstow.fish
`) + "\n" + exitStatusHelp,
		Action: func(c *cli.Context) error {
			args, err := operands(c, "bash|zsh|fish")
			if err != nil {
				return err
			}
			script, ok := scripts[args[0]]
			if !ok {
				return usage("no completion for %q: bash, zsh and fish have one", args[0])
			}
			e.printf("%s", script)
			return nil
		},
	}
}
