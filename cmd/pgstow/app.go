package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"pgstow/cmd/internal/config"
)

const exitStatusHelp = `EXIT STATUS:
   0 done · 1 failed, a retry may help · 3 finished with named exceptions · 10 no repository, or its format is too new
   11 lease held · 12 refused: same name with different bytes, or a foreign cluster · 13 the target cannot be reached · 64 usage
`

// run parses the arguments, carries out one command, prints its error as every error looks, and returns the exit code.
func run(ctx context.Context, e *environment) int {
	app := newApp(e)
	result := &resultWriter{w: e.stdout}
	e.stdout, app.Writer = result, result
	args := permute(app, spelledHelp(e.args))
	err := app.RunContext(ctx, args)
	if err == nil {
		err = result.failure()
	}
	if err == nil && isRecovery(e.args) && !e.fetched {
		err = usage("recovery asked for a file, and this is not what fetches one")
	}
	if err == nil {
		return exitDone
	}
	e.report(err, commandIn(app, args))
	if isDetached(e.args) {
		return exitFailed
	}
	if isWALPush(e.args) || isWALFetch(e.args) {
		return walExit(e.args, err)
	}
	return exitCode(err)
}

// spelledHelp lets `pgstow help backup create` mean `pgstow backup create --help`.
func spelledHelp(args []string) []string {
	if len(args) < 2 || args[1] != "help" {
		return args
	}
	return append(append([]string{args[0]}, args[2:]...), "--help")
}

// commandIn gives the command that the arguments name, with the program: "pgstow backup create".
func commandIn(app *cli.App, args []string) string {
	words, commands := []string{app.Name}, app.Commands
	for _, arg := range args[min(1, len(args)):] {
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(arg) })
		if i < 0 {
			break
		}
		words, commands = append(words, arg), commands[i].Subcommands
	}
	return strings.Join(words, " ")
}

func newApp(e *environment) *cli.App {
	return &cli.App{
		Name:                      "pgstow",
		Usage:                     "PostgreSQL backup into an object store, and back",
		Version:                   version,
		Writer:                    e.stdout,
		ErrWriter:                 e.stderr,
		EnableBashCompletion:      true,
		HideHelpCommand:           true,
		DisableSliceFlagSeparator: true,
		CustomAppHelpTemplate:     cli.AppHelpTemplate + "\n" + exitStatusHelp,
		// The library would exit the process by itself and print usage errors to the result stream.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   onUsageError,
		Action:         noCommand,
		Commands: []*cli.Command{
			initCommand(e), checkCommand(e), infoCommand(e), walCommand(e), backupCommand(e), restoreCommand(e), keygenCommand(e),
			inspectCommand(e), completionCommand(e),
		},
	}
}

// onUsageError turns what the flag parser says into our words: options have two dashes here.
func onUsageError(c *cli.Context, err error, _ bool) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		name = "--" + strings.TrimPrefix(name, "-")
		text = "unknown option " + name + meant(name, flagNames(c))
	} else if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		text = "the option --" + strings.TrimPrefix(name, "-") + " needs a value"
	} else if m := badValue.FindStringSubmatch(text); m != nil {
		text = "the option --" + m[2] + " does not take " + m[1]
		if isDuration(c, m[2]) {
			text += ": a duration such as 90s or 26h is wanted"
		}
	}
	return usage("%s", text)
}

func isDuration(c *cli.Context, name string) bool {
	return c != nil && c.Command != nil && slices.ContainsFunc(c.Command.Flags, func(f cli.Flag) bool {
		_, ok := f.(*cli.DurationFlag)
		return ok && slices.Contains(f.Names(), name)
	})
}

func flagNames(c *cli.Context) (names []string) {
	if c == nil || c.Command == nil {
		return nil
	}
	for _, f := range c.Command.Flags {
		for _, name := range f.Names() {
			names = append(names, "--"+name)
		}
	}
	return names
}

// badValue matches what the flag package says of a value that it cannot read.
var badValue = regexp.MustCompile(`^invalid (?:boolean )?value (".*") for (?:flag )?-+([a-z-]+):`)

// noCommand answers a bare program or group with its help, and a word that is no command with an error.
func noCommand(c *cli.Context) error {
	root := c.Command == nil || c.Command.Name == c.App.Name
	if word := c.Args().First(); word != "" {
		var names []string
		for _, sub := range c.Command.Subcommands {
			names = append(names, sub.Names()...)
		}
		return usage("%q is not a command of %s%s", word, strings.TrimSpace(c.Command.HelpName), meant(word, names))
	}
	if root {
		return cli.ShowAppHelp(c)
	}
	return cli.ShowSubcommandHelp(c)
}

// leaf finishes a command that does something: common flags, usage errors, and examples with the exit status in its help.
func leaf(c *cli.Command, examples string) *cli.Command {
	c.Flags = append(c.Flags, commonFlags()...)
	c.OnUsageError = onUsageError
	c.CustomHelpTemplate = cli.CommandHelpTemplate + "\nEXAMPLES:\n" + indent(examples) + "\n" + exitStatusHelp
	return c
}

func group(name, text string, commands ...*cli.Command) *cli.Command {
	return &cli.Command{
		Name: name, Usage: text, Subcommands: commands, Action: noCommand, OnUsageError: onUsageError, HideHelpCommand: true,
	}
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("   " + line)
	}
	return b.String()
}

func commonFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "config", Usage: "read the settings from `FILE`, default " + config.DefaultFile, Category: "Settings"},
		&cli.StringFlag{Name: "repo", Usage: "`URL` of the repository: s3://bucket/prefix?endpoint=… or file:///dir", Category: "Settings"},
		&cli.StringFlag{Name: "cluster", Usage: "`NAME` of the cluster in the repository", Category: "Settings"},
		&cli.StringFlag{Name: "pgdata", Usage: "`DIR` is the data directory of the server", Category: "Settings"},
		&cli.StringFlag{Name: "identity-file", Usage: "`FILE` with the age identities that open an encrypted repository", Category: "Settings"},
		&cli.StringFlag{Name: "encryption", Usage: "none: a repository in plain text is expected (`WHAT`)", Category: "Settings"},
		&cli.StringFlag{Name: "recipients", Usage: "the age recipients, or their fingerprints, that the repository must have (`LIST`)", Category: "Settings"},
		&cli.StringFlag{Name: "spool", Usage: "`DIR` for the local cache of WAL", Category: "Settings"},
	}
}

// jsonFlag asks for the documented JSON instead of text.
func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print JSON (docs/json.md)"} }

// settings merges flags, environment and file for one command; unknown keys are errors unless the command is PostgreSQL's own.
func settings(c *cli.Context, e *environment, tolerant bool) (*config.Config, error) {
	flags := map[string]string{}
	for _, name := range c.LocalFlagNames() {
		switch name {
		case "repo", "cluster", "pgdata", "identity-file", "encryption", "recipients", "spool", "workers", "rate-limit", "archive-timeout":
			flags[strings.ReplaceAll(name, "-", "_")] = c.String(name)
		}
	}
	conf, warnings, err := config.Load(config.Sources{File: c.String("config"), Environ: e.environ, Flags: flags})
	if err != nil {
		return nil, usage("%s", err)
	}
	if len(warnings) > 0 && !tolerant {
		return nil, usage("%s", strings.Join(warnings, "; "))
	}
	for _, warning := range warnings {
		e.message("warning: %s", warning)
	}
	return conf, nil
}

// operands checks the number of arguments and returns them.
func operands(c *cli.Context, names ...string) ([]string, error) {
	args := c.Args().Slice()
	required := 0
	for _, name := range names {
		if !strings.HasPrefix(name, "[") {
			required++
		}
	}
	if len(args) < required || len(args) > len(names) {
		return nil, usage("%s wants %s, got %s", commandWords(c), wants(names), count(len(args)))
	}
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") && len(arg) > 1 {
			return nil, usage("the option %s must stand before the arguments of %s", arg, commandWords(c))
		}
	}
	return args, nil
}

// commandWords names the command without the program: messages begin with that anyway.
func commandWords(c *cli.Context) string {
	return strings.TrimPrefix(c.Command.HelpName, c.App.Name+" ")
}

func wants(names []string) string {
	if len(names) == 0 {
		return "no arguments"
	}
	return strings.Join(names, " ")
}

func count(n int) string {
	switch n {
	case 0:
		return "none"
	case 1:
		return "1 argument"
	default:
		return fmt.Sprintf("%d arguments", n)
	}
}

// usageError is a mistake in how pgstow was called: exit 64.
type usageError struct{ text string }

func (u *usageError) Error() string { return u.text }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

func isUsage(err error) bool {
	var u *usageError
	return errors.As(err, &u)
}
