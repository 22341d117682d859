import { useEffect, useState, useCallback } from 'react';
interface LogEntry {
  timestamp: string;
  level: string;
  message: string;
  fields?: Record<string, any>;
}
export function useLogStream(baseUrl: string, maxLogs = 1000) {
  const [logs, setLogs] = useState<LogEntry[]>([]);
  const [connected, setConnected] = useState(false);
  const [error, setError] = useState<Error | null>(null);
  useEffect(() => {
    const eventSource = new EventSource(`${baseUrl}/api/v1/logs/stream`);
    eventSource.onopen = () => {
      setConnected(true);
      setError(null);
    };
    eventSource.onmessage = (event) => {
      const log = JSON.parse(event.data);
      if (log.type === 'connected') return;
      setLogs((prev) => {
        const updated = [log, ...prev];
        return updated.slice(0, maxLogs);
      });
    };
    eventSource.onerror = () => {
      setConnected(false);
      setError(new Error('Log stream disconnected'));
    };
    return () => {
      eventSource.close();
    };
  }, [baseUrl, maxLogs]);
  const clearLogs = useCallback(() => {
    setLogs([]);
  }, []);
  return { logs, connected, error, clearLogs };
}
// Usage in component
function LogViewer() {
  const { logs, connected, clearLogs } = useLogStream('http://localhost:7383');
  return (
    <div>
      <div>Status: {connected ? 'Connected' : 'Disconnected'}</div>
      <button onClick={clearLogs}>Clear</button>
      <ul>
        {logs.map((log, i) => (
          <li key={i} className={`log-${log.level}`}>
            [{log.timestamp}] {log.message}
          </li>
        ))}
      </ul>
    </div>
  );
}
