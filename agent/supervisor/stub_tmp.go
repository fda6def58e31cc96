package supervisor

import "context"

func (s *Supervisor) Adopt(context.Context) error { return nil }
func (s *Supervisor) Release()                    {}
