package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"pgstow/storage/object"
)

func keygenCommand(e *environment) *cli.Command {
	return &cli.Command{
		Name:  "keygen",
		Usage: "make a key pair for an encrypted repository",
		Description: `Writes an age identity (post-quantum hybrid) to a new file or to the standard output, and names its recipient. The recipient is
public: it goes into the configuration of every host that pushes or backs up. The identity opens everything that was encrypted to it:
keep it where restores are made and in a safe, not on the database host. Without it no backup can be read again, by anybody.`,
		ArgsUsage: "[FILE]",
		CustomHelpTemplate: cli.CommandHelpTemplate + "\nEXAMPLES:\n" + indent(`pgstow keygen /secure/pgstow.key
pgstow keygen > pgstow.key
`) + "\n" + exitStatusHelp,
		OnUsageError: onUsageError,
		Action: func(c *cli.Context) error {
			args, err := operands(c, "[FILE]")
			if err != nil {
				return err
			}
			identity, recipient, err := object.GenerateIdentity()
			if err != nil {
				return fmt.Errorf("make a key pair: %w", err)
			}
			text := fmt.Sprintf("# created: %s\n# public key: %s\n%s\n", time.Now().UTC().Format(time.RFC3339), recipient, identity)
			if len(args) == 0 {
				e.printf("%s", text)
				e.message("public key: %s", recipient)
				return nil
			}
			if err := writeNew(args[0], text); err != nil {
				return err
			}
			e.printf("%s\n", recipient)
			return nil
		},
	}
}

// writeNew creates a private file and never replaces one: an overwritten identity would lose every backup made for it.
func writeNew(path, text string) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists already and is not overwritten", path)
	}
	if err != nil {
		return fmt.Errorf("write the identity: %w", err)
	}
	defer func() {
		if closeErr := file.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("write the identity %s: %w", path, closeErr)
		}
	}()
	if _, err := io.WriteString(file, text); err != nil {
		return fmt.Errorf("write the identity %s: %w", path, err)
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("write the identity %s: %w", path, err)
	}
	return nil
}
